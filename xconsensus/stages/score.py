"""score: compare each member's explanations with the consensus and the masks; relate the scores to accuracy."""

from dataclasses import asdict
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from xconsensus.consensus import SIMILARITIES, Similarity
from xconsensus.datasets import Record
from xconsensus.errors import InputError, nearest
from xconsensus.progress import counter, log
from xconsensus.scores.accuracy import ensemble_accuracy
from xconsensus.scores.metrics import average_precision, bootstrap_mean, correlation
from xconsensus.stages.context import Context, digest
from xconsensus.stages.vote import IMAGES_AT_A_TIME, complete_explanations, exact, in_turn, leave_out_missing
from xconsensus.store.files import read_settings, write_csv, write_long_csv
from xconsensus.store.locks import claimed
from xconsensus.store.provenance import check_settings
from xconsensus.store.shards import Shards

ENSEMBLE = "consensus"  # the row of the committee itself
RELIABLE = 0.5  # below, more than half of an explanation's variance over superpixels or pixels is sampling noise


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    context = Context(config)
    similarity = similarity_of(context)
    records = context.chosen()
    ids = [record.image_id for record in records]
    leave_out_missing(context, ids)
    names = [member.name for member in context.initial]
    explanations, consensus = complete_explanations(context, ids), context.consensus()
    if missing := consensus.missing(ids):
        raise context.needs("vote", f"{consensus.folder}: {len(missing)} of {len(ids)} images lack a consensus")
    predictions = (context.predictions("test", context.ready(member)) for member in context.initial)  # one in memory
    accuracies = ensemble_accuracy((probabilities, labels) for _, probabilities, labels in predictions)
    folder = context.store.scores(context.committee, context.config["explainer"]["name"])
    settings = {
        "consensus": digest(dict(consensus.settings)),
        "similarity": vars(similarity),
        "score": context.config["score"],
        "images": len(ids),
        "scored": context.scored,
        "seed": context.seed,
    }
    path = folder / "members.csv"
    context.usable(path, lambda: check_settings(path, read_settings(path), settings))
    if context.dry_run:
        log.info(f"score would compare {len(names)} members with the consensus on {len(ids)} images, into {folder}")
        return
    before = _modified(path)
    for _ in claimed(context.store.root, [(path, None)]):
        if _modified(path) == before:
            _write(context, records, explanations, consensus, similarity, accuracies, path, settings)
    log.info(f"{context.config['explainer']['name']}: scores of {len(names)} members on {len(ids)} images in {folder}")


def _modified(path: Path) -> int | None:
    """When a file was last written: another run may write it while this one waits."""
    return path.stat().st_mtime_ns if path.exists() else None


def _write(
    context: Context,
    records: list[Record],
    explanations: list[Shards],
    consensus: Shards,
    similarity: Similarity,
    accuracies: tuple[list[float], float, float],
    path: Path,
    settings: dict[str, Any],
) -> None:
    """Compute and write the three tables; members.csv at ``path`` is the last and has the settings beside it."""
    ids = [record.image_id for record in records]
    names = [member.name for member in context.initial]
    with counter(f"score {context.config['explainer']['name']}", len(ids), "images", context.progress) as count:
        similarities = np.full((len(ids), len(names)), np.nan)
        precisions = np.full((len(ids), len(names) + 1), np.nan)  # the last one is the consensus's
        fields = np.full((2, len(ids), len(names)), np.nan)  # reliability and samples of each explanation
        for start in range(0, len(ids), IMAGES_AT_A_TIME):
            part = slice(start, start + IMAGES_AT_A_TIME)
            views = (similarities[part], precisions[part], fields[:, part])
            _compare(context, records[part], explanations, consensus, similarity, *views)
            count.add(len(records[part]))
    members = _members_table(context, accuracies, similarities, precisions, fields[0])
    members = members[members["member"].isin([*context.scored, ENSEMBLE])]
    parts = (slice(start, start + IMAGES_AT_A_TIME) for start in range(0, len(ids), IMAGES_AT_A_TIME))
    tables = (_images_table(ids[p], names, similarities[p], precisions[p], *fields[:, p]) for p in parts)
    write_long_csv(path.with_name("images.csv"), tables)
    write_csv(path.with_name("correlations.csv"), correlations_table(members, context.config["score"]["level"]))
    write_csv(path, members, settings)
    if np.isfinite(fields[0]).any():
        log.info(f"{context.config['explainer']['name']}: {_noise(members, fields[0])}")


def similarity_of(context: Context) -> Similarity:
    """The similarity that the explainer's settings name; InputError when they cannot."""
    explainer = context.config["explainer"]
    if explainer["similarity"] not in SIMILARITIES:
        known = nearest(explainer["similarity"], SIMILARITIES)
        raise InputError(f"explainer.similarity={explainer['similarity']} is unknown{known}")
    if explainer["similarity"] == "cosine":
        return Similarity("cosine")
    if not (sigma := explainer.get("sigma")) or sigma <= 0:
        raise InputError(f"explainer.sigma={sigma}: the similarity rbf needs a positive number")
    return Similarity("rbf", sigma)


def _compare(
    context: Context,
    records: list[Record],
    explanations: list[Shards],
    consensus: Shards,
    similarity: Similarity,
    similarities: NDArray[np.float64],
    precisions: NDArray[np.float64],
    fields: NDArray[np.float64],
) -> None:
    """Fill (images, members) similarities, (images, members + 1) average precisions and (2, images, members) fields.

    Member by member, so that memory holds one member's explanations at a time.
    """
    pixels = [areas(context, record) for record in records] if context.dataset.has_masks else None
    ids = [record.image_id for record in records]
    agreed = [consensus.values(image_id) for image_id in ids]
    ends = list(accumulate(map(len, agreed), initial=0))
    flat = torch.cat(agreed)
    for column, shards in enumerate(in_turn([*explanations, consensus], ids)):
        if shards is not consensus:
            for place, values in exact(shards, ids):
                same = flat[ends[place.start] : ends[place.stop]].view(values.shape)
                similarities[place, column] = similarity(values, same.to(values.dtype))
        for row, record in enumerate(records):
            if shards is not consensus:
                fields[:, row, column] = [shards.number(record.image_id, name) for name in ("reliability", "samples")]
            if pixels is not None:
                precisions[row, column] = average_precision(shards.stored(record.image_id).numpy(), *pixels[row])


def areas(context: Context, record: Record) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Object pixels and all pixels of each dimension of an image's explanations: of superpixels, or of pixels."""
    mask = context.mask(record).ravel()
    if not context.segmenter_settings():
        return mask, None
    segments = context.labels(context.config["explainer"]["segmenter"]["name"]).values(record.image_id).numpy()
    return np.bincount(segments, weights=mask), np.bincount(segments)


def _members_table(
    context: Context,
    accuracies: tuple[list[float], float, float],
    similarities: NDArray[np.float64],
    precisions: NDArray[np.float64],
    reliability: NDArray[np.float64],
) -> pd.DataFrame:
    """members.csv: one row a member, the ensemble last."""
    options = context.config["score"]
    own, averaged, voted = accuracies
    low, high = bootstrap_mean(similarities, options["bootstrap"], context.seed, options["level"])
    table = pd.DataFrame(
        {
            "member": [*(member.name for member in context.initial), ENSEMBLE],
            "family": [*(member.family for member in context.initial), ENSEMBLE],
            "accuracy": [*own, averaged],
            "majority_vote_accuracy": [*[np.nan] * len(own), voted],
            "consensus_score": [*similarities.mean(0), np.nan],
            "consensus_score_low": [*low, np.nan],
            "consensus_score_high": [*high, np.nan],
        }
    )
    if np.isfinite(reliability).any():
        reliable = np.where(reliability >= RELIABLE, similarities, np.nan)
        table["reliability"] = [*_mean(reliability), np.nan]
        table["noise_share"] = [*(reliability < RELIABLE).mean(0), np.nan]
        table["consensus_score_reliable"] = [*_mean(reliable), np.nan]
    if context.dataset.has_masks:
        low, high = bootstrap_mean(precisions, options["bootstrap"], context.seed, options["level"])
        table["mean_average_precision"] = np.nanmean(precisions, axis=0)
        table["mean_average_precision_low"], table["mean_average_precision_high"] = low, high
        if outside := int(np.isnan(precisions[:, -1]).sum()):
            log.info(f"{outside} images left out of mAP: their object lies outside the centre crop")
    return table


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the images (n, members), numbers that are not finite left out; NaN where there is none."""
    present = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(present, values, 0).sum(0) / present.sum(0))


def _noise(members: pd.DataFrame, reliability: NDArray[np.float64]) -> str:
    """What sampling noise does to the scores, in a line."""
    own = members[members["member"] != ENSEMBLE]
    noisy, whole = int((reliability < RELIABLE).sum()), int(np.isfinite(reliability).sum())
    line = f"{noisy} of {whole} explanations are mostly noise (reliability below {RELIABLE})"
    ranks = correlation(own["consensus_score"], own["consensus_score_reliable"]).spearman_r
    share = correlation(own["consensus_score"], own["reliability"]).pearson_r ** 2
    if not np.isfinite([ranks, share]).all():
        return line
    return (
        f"{line}; without them the members' scores keep their order with Spearman's r {ranks:.2f}; reliability goes"
        f" with {share:.0%} of the variance of scores between members"
    )


def _images_table(
    ids: list[str],
    names: list[str],
    similarities: NDArray[np.float64],
    precisions: NDArray[np.float64],
    reliability: NDArray[np.float64],
    samples: NDArray[np.float64],
) -> pd.DataFrame:
    """images.csv: one row an image and member; the consensus has an average precision alone."""
    columns, none = [*names, ENSEMBLE], np.full((len(ids), 1), np.nan)
    return pd.DataFrame(
        {
            "image_id": np.repeat(ids, len(columns)),
            "member": columns * len(ids),
            "similarity": np.hstack([similarities, none]).ravel(),
            "average_precision": precisions.ravel(),
            "reliability": np.hstack([reliability, none]).ravel(),
            "samples": np.hstack([samples, none]).ravel(),
        }
    )


def correlations_table(members: pd.DataFrame, level: float) -> pd.DataFrame:
    """correlations.csv: every pair of accuracy, consensus score and mAP (where there are masks) over the members."""
    own = members[members["member"] != ENSEMBLE]
    names = [n for n in ("accuracy", "consensus_score", "mean_average_precision") if n in own]
    rows = [{"x": x, "y": y, **asdict(correlation(own[x], own[y], level))} for x, y in combinations(names, 2)]
    return pd.DataFrame(rows)
