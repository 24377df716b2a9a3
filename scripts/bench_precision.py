"""What reduced precision does to explanations and scores: explain.precision, auto unless given, against float32.

Usage: python scripts/bench_precision.py [lime] [smoothgrad] key=value ..., the keys of `xconsensus run`, such as
experiment=imagenet_sample root=FOLDER explain.images=20 output_dir=FOLDER. Runs both, vote and score included.
"""

import sys

import numpy as np
from benchmark import config_of, show

from xconsensus.scores.metrics import correlation
from xconsensus.stages import explain, finetune, score, vote
from xconsensus.stages.context import Context
from xconsensus.store.files import read_csv

SAMPLES = {"lime": 350, "smoothgrad": 50}


def table_of(method: str, overrides: list[str]) -> list[dict[str, object]]:
    """One row a member."""
    contexts = {}
    given = dict(each.split("=", 1) for each in overrides).get("explain.precision", "auto")
    for precision in (given, "float32"):
        fixed = [f"explainer={method}", f"explainer.name={method}_{precision}", f"explain.precision={precision}"]
        config = config_of("run", [*overrides, *fixed])
        for stage in (finetune, explain, vote, score):
            stage.run(config)
        contexts[precision] = Context(config)
    fewer, exact = contexts.values()
    ids = [record.image_id for record in exact.chosen()]
    scores = {
        precision: read_csv(
            context.store.scores(context.committee, context.config["explainer"]["name"]) / "members.csv"
        ).set_index("member")["consensus_score"]
        for precision, context in contexts.items()
    }
    rows: list[dict[str, object]] = []
    for member in exact.initial:
        one, other = fewer.explanations(member), exact.explanations(member)
        agreements = [np.corrcoef(one.values(i), other.values(i))[0, 1] for i in ids]
        same = [one.number(i, "predicted") == other.number(i, "predicted") for i in ids]
        rows.append(
            {
                "member": member.name,
                "took": one.note("precision"),
                "mean correlation": float(np.mean(agreements)),
                "least": float(np.min(agreements)),
                "where the label is the same": float(np.mean([a for a, s in zip(agreements, same, strict=True) if s])),
                "same label": f"{sum(same)}/{len(same)}",
                "score": float(scores[given][member.name]),
                "score float32": float(scores["float32"][member.name]),
            }
        )
    names = [member.name for member in exact.initial]
    ranks = correlation(scores[given][names], scores["float32"][names]).spearman_r
    mean = float(np.mean([row["mean correlation"] for row in rows]))
    print(f"{method}: mean correlation {mean:.4f}, Spearman's r of the scores {ranks:.3f}")
    return rows


def main() -> None:
    """Print a table an explainer."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    overrides = [argument for argument in sys.argv[1:] if "=" in argument]
    for method in [argument for argument in sys.argv[1:] if argument in SAMPLES] or SAMPLES:
        show(method, table_of(method, [*overrides, f"explainer.samples={SAMPLES[method]}"]))


if __name__ == "__main__":
    main()
