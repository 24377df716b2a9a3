"""score: compare each member's explanations with the consensus and the masks; relate the scores to accuracy."""

from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig

from xconsensus.consensus import SIMILARITIES, Similarity
from xconsensus.datasets import Record
from xconsensus.ensemble import ensemble_accuracy
from xconsensus.errors import InputError, nearest
from xconsensus.metrics import average_precision, bootstrap_mean, correlation
from xconsensus.progress import counter, log
from xconsensus.stages.context import Context, digest
from xconsensus.stages.vote import IMAGES_AT_A_TIME, complete_explanations
from xconsensus.store import check_settings, read_settings, write_csv
from xconsensus.tensors import Shards

ENSEMBLE = "consensus"  # the row of the committee itself


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    context = Context(config)
    similarity = similarity_of(context)
    records = context.chosen()
    ids = [record.image_id for record in records]
    names = [member.name for member in context.initial]
    explanations, consensus = complete_explanations(context, ids), context.consensus()
    if missing := consensus.missing(ids):
        raise context.needs("vote", f"{consensus.folder}: {len(missing)} of {len(ids)} images lack a consensus")
    predictions = [context.predictions("test", context.ready(member)) for member in context.initial]
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
    with counter(f"score {context.config['explainer']['name']}", len(ids), "images", context.progress) as count:
        similarities = np.full((len(ids), len(names)), np.nan)
        precisions = np.full((len(ids), len(names) + 1), np.nan)  # the last one is the consensus's
        for start in range(0, len(ids), IMAGES_AT_A_TIME):
            part = slice(start, start + IMAGES_AT_A_TIME)
            _compare(context, records[part], explanations, consensus, similarity, similarities[part], precisions[part])
            count.add(len(records[part]))
    accuracies = ensemble_accuracy((probabilities, labels) for _, probabilities, labels in predictions)
    members = _members_table(context, accuracies, similarities, precisions)
    members = members[members["member"].isin([*context.scored, ENSEMBLE])]
    write_csv(folder / "images.csv", _images_table(ids, names, similarities, precisions))
    write_csv(folder / "correlations.csv", correlations_table(members, context.config["score"]["level"]))
    write_csv(path, members, settings)
    log.info(f"{context.config['explainer']['name']}: scores of {len(names)} members on {len(ids)} images in {folder}")


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
) -> None:
    """Fill (images, members) similarities and (images, members + 1) average precisions of some images.

    Member by member, so that memory holds one member's explanations at a time.
    """
    pixels = [areas(context, record) for record in records] if context.dataset.has_masks else None
    agreed = [consensus.values(record.image_id).double() for record in records]
    for column, shards in enumerate([*explanations, consensus]):
        for row, record in enumerate(records):
            values = shards.values(record.image_id).double()
            if shards is not consensus:
                similarities[row, column] = similarity(values, agreed[row])
            if pixels is not None:
                precisions[row, column] = average_precision(values.numpy(), *pixels[row])
        shards.release()


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
    if context.dataset.has_masks:
        low, high = bootstrap_mean(precisions, options["bootstrap"], context.seed, options["level"])
        table["mean_average_precision"] = np.nanmean(precisions, axis=0)
        table["mean_average_precision_low"], table["mean_average_precision_high"] = low, high
        if outside := int(np.isnan(precisions[:, -1]).sum()):
            log.info(f"{outside} images left out of mAP: their object lies outside the centre crop")
    return table


def _images_table(
    ids: list[str], names: list[str], similarities: NDArray[np.float64], precisions: NDArray[np.float64]
) -> pd.DataFrame:
    """images.csv: one row an image and member; the consensus has an average precision and no similarity."""
    columns = [*names, ENSEMBLE]
    return pd.DataFrame(
        {
            "image_id": np.repeat(ids, len(columns)),
            "member": columns * len(ids),
            "similarity": np.hstack([similarities, np.full((len(ids), 1), np.nan)]).ravel(),
            "average_precision": precisions.ravel(),
        }
    )


def correlations_table(members: pd.DataFrame, level: float) -> pd.DataFrame:
    """correlations.csv: every pair of accuracy, consensus score and mAP (where there are masks) over the members."""
    own = members[members["member"] != ENSEMBLE]
    names = [n for n in ("accuracy", "consensus_score", "mean_average_precision") if n in own]
    rows = [{"x": x, "y": y, **asdict(correlation(own[x], own[y], level))} for x, y in combinations(names, 2)]
    return pd.DataFrame(rows)
