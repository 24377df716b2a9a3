"""The numbers of the paper, as facts to stand beside one's own.

Source: Li, Xiong, Huang, Ji, Dou, "Cross-model consensus of explanations and beyond for image classification
models: an empirical study", Machine Learning 112 (2023), doi 10.1007/s10994-023-06312-1, arXiv 2109.00707.

- ``table1.csv``: Table 1. Five models by Network Dissection, the user study and the two consensus scores.
- ``table2_imagenet.csv``, ``table2_cub200.csv``: Table 2. Numbers that the available scan leaves illegible are
  empty, and NaN here: 24 whole rows on CUB-200-2011; and three `DOUBTFUL` accuracies on ImageNet.
- ``correlations.csv``: Pearson's r and, where stated, p of Figures 4, 5, 6, 10 and 11.
"""

from importlib.resources import files

import pandas as pd

from xconsensus.errors import InputError

DATASETS = ("imagenet", "cub200")
# accuracies on ImageNet that the scan prints, but that look shifted by a row or more: left out, and their weight shown
DOUBTFUL = {"ResNet18": 0.715, "ResNet18_vd": 0.715, "ResNet200_vd": 0.730}
FAMILY_R = 0.96  # section 4.5.2, by LIME: mean r of a family's scores under random committees and the complete one
ENSEMBLE = "consensus"  # the row of the committee itself, in these tables and in a run's own
CENTRED = "centred box"  # a row of locations.csv, and like the consensus no member's name

# Longest first: SE_ResNeXt is no SE_ResNet, and neither is a ResNet.
_FAMILIES = sorted(
    (
        *("AlexNet", "AutoDL", "DPN", "DarkNet", "DenseNet", "EfficientNet", "GoogleNet", "HRNet", "Inception"),
        *("MobileNetV1", "MobileNetV2", "Res2Net", "ResNeXt", "ResNet", "SENet", "SE_ResNeXt", "SE_ResNet"),
        *("ShuffleNetV2", "SqueezeNet", "VGG", "Xception"),
    ),
    key=len,
    reverse=True,
)


def table1() -> pd.DataFrame:
    """Table 1, five rows: model, network_dissection_rank, user_study_score, consensus_score_<explainer>."""
    return _read("table1")


def table2(dataset: str) -> pd.DataFrame:
    """Table 2 of "imagenet" (81 models) or "cub200" (85 models, and last the row "consensus").

    Columns model, accuracy, consensus_score_lime, consensus_score_smoothgrad, and for cub200 map_lime and
    map_smoothgrad, all but the first float64; what is not legible is NaN.

    Raises InputError for another data set.
    """
    if dataset not in DATASETS:
        raise InputError(f"published numbers: no Table 2 for {dataset!r}; choose one of {', '.join(DATASETS)}")
    return _read(f"table2_{dataset}")


def correlations(dataset: str) -> pd.DataFrame:
    """Published correlations of a data set: figure, x, y, pearson_r, pearson_p; no row where none was published.

    x and y are named as columns of `tables.table2`.
    """
    table = _read("correlations")
    return table[table["dataset"] == dataset].drop(columns="dataset").reset_index(drop=True)


def all_datasets() -> list[str]:
    """The data sets of which the paper states a correlation: those of Table 2 and of Figure 11."""
    return [str(name) for name in _read("correlations")["dataset"].unique()]


def members(dataset: str) -> dict[str, pd.DataFrame]:
    """Table 2 as the figures take it: "lime" and "smoothgrad" -> member, family, accuracy, consensus_score, ...

    Last comes the row `ENSEMBLE`, NaN where nothing is published. The paper gives no intervals, so these columns
    are absent. The family is read off the model's name. Raises InputError as `table2` does.
    """
    table = table2(dataset)
    if ENSEMBLE not in set(table["model"]):
        table = pd.concat([table, pd.DataFrame({"model": [ENSEMBLE]})], ignore_index=True)
    tables = {}
    for explainer in ("lime", "smoothgrad"):
        rows = {
            "member": table["model"],
            "family": table["model"].map(_family),
            "accuracy": table["accuracy"],
            "consensus_score": table[f"consensus_score_{explainer}"],
        }
        if f"map_{explainer}" in table:
            rows["mean_average_precision"] = table[f"map_{explainer}"]
        tables[explainer] = pd.DataFrame(rows)
    return tables


def _family(model: str) -> str:
    return next((family for family in _FAMILIES if model.startswith(family)), model)


def _read(name: str) -> pd.DataFrame:
    with files(__package__).joinpath(f"{name}.csv").open() as file:
        return pd.read_csv(file)
