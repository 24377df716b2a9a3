"""Every key of the config, with its kind, its default and a sentence: what is checked, and what ``--help`` prints.

Own loaders, explainers and networks have keys of their own besides.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache, partial
from typing import Any, Literal, NewType, get_type_hints

from hydra.core.config_store import ConfigStore

Folder = NewType("Folder", str)  # or file; ~ is the user's own folder
REQUIRED: Any = "???"  # in place of a default: another YAML or the command line gives the value
LARGEST_SIDE = 2**12  # pixels: sizes beyond are slips, and images of them gigabytes


def key(default: Any, sentence: str, **limits: float) -> Any:
    """A key's field. ``limits`` of its numbers: least and most, or above and below, which are not reached."""
    return field(
        default_factory=partial(deepcopy, default), metadata={"default": default, "sentence": sentence, **limits}
    )


@dataclass(frozen=True)
class Dataset:
    """Keys of every data set."""

    name: str = key(REQUIRED, "folder below output_dir")
    loader: str = key(REQUIRED, "what reads it: a name, or your own class as path/to/file.py:NAME")
    explain_split: str = key("test", "the split whose images are explained")
    first_classes: int | None = key(
        None, "so many classes alone, the first in the order of the labels; null: all", least=2
    )
    white: float | None = key(
        None,
        "value that is white in image files of more than 8 bits a channel, as in white=4095; null: what each file"
        " declares, or its values leave no doubt about",
        above=0,
    )
    resize: int = key(REQUIRED, "short edge of the images in pixels", least=1, most=LARGEST_SIDE)
    size: int = key(REQUIRED, "centre crop that is explained, in pixels", least=1)


@dataclass(frozen=True)
class _InFolders(Dataset):
    root: Folder = key(REQUIRED, "folder of the photographs")
    splits: dict[str, str] = key(REQUIRED, "folder of each split: its path from root, or from here")


@dataclass(frozen=True)
class _WithMasks(_InFolders):
    masks: Folder | None = key(None, "folder of masks with the paths of the images; null: none")
    mask_threshold: float = key(0, "mask values above it are the object")
    mask_void: int | None = key(None, "mask value whose pixels do not count; null: none")
    mask_invert: bool | None = key(
        None, "true: the object is what mask_threshold leaves; null: as false, and inverted masks are warned of"
    )


@dataclass(frozen=True)
class _ImageNet(_WithMasks):
    devkit: Folder | None = key(None, "folder of the devkit; null: inside or beside root")


@dataclass(frozen=True)
class _ImageFolder(_WithMasks):
    classes: list[str] | Literal["imagenet"] | None = key(
        None, "order of labels: folder names, imagenet, or null: as sorted"
    )


@dataclass(frozen=True)
class _Coco(_InFolders):
    labels: Literal["coco", "none"] = key("coco", "coco: the category with the largest area; none: unknown")


@dataclass(frozen=True)
class _Cub200(Dataset):
    root: Folder = key(REQUIRED, "the folder with images.txt")
    masks: Folder | None = key(
        "segmentations",
        "folder of the masks' archive; boxes: each bird's bounding box counts as its mask; null: do without",
    )
    mask_threshold: float = key(127, "mask values above it are the bird")


@dataclass(frozen=True)
class _Official(Dataset):
    root: Folder = key(REQUIRED, "the data set's folder")
    splits: dict[str, str | list[str]] = key(REQUIRED, "the official split, or splits, that make up each of ours")
    download: bool = key(False, "true: fetch it by torchvision")


@dataclass(frozen=True)
class _Flowers102(_Official):
    masks: Folder | None = key("segmim", "folder of the masks' archive; null: do without")
    mask_tolerance: int = key(48, "background is within it of pure blue")


@dataclass(frozen=True)
class _Flowers17(Dataset):
    root: Folder = key(REQUIRED, "the folder with jpg/ and classes.csv")
    masks: Folder | None = key("masks", "folder of the masks; null: do without")
    split_seed: int = key(0, "of the draw of 40 training, 20 validation and 20 test images a class")


@dataclass(frozen=True)
class _OxfordPets(_Official):
    mask_values: list[int] = key([1, 3], "trimap values that are the object: 1 pet, 2 background, 3 outline")


@dataclass(frozen=True)
class _Shapes(Dataset):
    seed: int = key(REQUIRED, "of the drawings", least=0)
    objects: int = key(1, "an image", least=1, most=4)
    splits: dict[str, int] = key(REQUIRED, "number of images of each split")


LOADERS: dict[str, type[Dataset]] = {
    "cars196": _Official,
    "coco": _Coco,
    "cub200": _Cub200,
    "flowers102": _Flowers102,
    "flowers17": _Flowers17,
    "food101": _Official,
    "imagefolder": _ImageFolder,
    "imagenet": _ImageNet,
    "oxford_pets": _OxfordPets,
    "shapes": _Shapes,
}


@dataclass(frozen=True)
class Explainer:
    """Keys of every explainer."""

    name: str = key(REQUIRED, "folder of the explanations")
    title: str | None = key(None, "in figures and tables; null: LIME, SmoothGrad, or a name of one's own as it stands")
    method: str = key(REQUIRED, "lime, smoothgrad, or your own dataclass as path/to/file.py:NAME")
    vote: str = key(REQUIRED, "how a map votes, as in Algorithm 2")
    similarity: str = key(REQUIRED, "how a map is compared with the consensus")


@dataclass(frozen=True)
class _Method(Explainer):
    sigma: float | None = key(None, "of the similarity rbf on 224x224 maps, scaled by side / 224")
    tolerance: float | None = key(None, "0..1: from a quarter to four times the samples until it is that reliable")
    target: Literal["predicted", "label", "ensemble"] = key(
        "predicted", "class explained: predicted by the member | label | ensemble, by the members' mean probability"
    )


@dataclass(frozen=True)
class _Lime(_Method):
    segmenter: dict[str, Any] | None = key(None, "superpixels: a function of skimage.segmentation and its arguments")
    samples: int = key(1000, "perturbed images, the first one unperturbed")
    sampling: Literal["iid", "hadamard"] = key("iid", "iid | hadamard")
    keep_probability: float = key(0.5, "of a superpixel in a perturbed image, independently")
    kernel_width: float = key(0.25, "of the weight of a perturbed image by its distance to the whole one")
    regression: Literal["linear", "gaussian_process"] = key("linear", "linear | gaussian_process")
    ridge: float = key(0.0, "penalty of the weighted linear regression")


@dataclass(frozen=True)
class _SmoothGrad(_Method):
    samples: int = key(50, "noisy images")
    noise: float = key(0.1, "standard deviation, as a fraction of max - min of the normalised image")


METHODS: dict[str, type[Explainer]] = {"lime": _Lime, "smoothgrad": _SmoothGrad}


@dataclass(frozen=True)
class Committee:
    """Keys of a committee; `members.member.Member` has those of its members, and checks them."""

    name: str = key(REQUIRED, "of its folders of scores and figures")
    finetune: bool = key(True, "false: members are used as their weights are")
    catalogue: list[str] | str | None = key(
        None, "models of the paper: imagenet81 | cub85 | [NAMES]; `xconsensus ls members` has all"
    )
    weights: Literal["authors", "libraries"] = key(
        "authors",
        "of the catalogue's models: authors (PaddleClas's networks and files) | libraries (what timm and torchvision"
        " have in their place)",
    )
    release: Literal["2.x", "1.8"] = key(
        "2.x",
        "of PaddleClas, where it computes otherwise than release 1.8: 2.x | 1.8. Three squeeze-and-excitation networks"
        " of 1.8 scale their last layer's input by 0.5 or 0.8, and EfficientNetB0_Small pads on one side",
    )
    substitutes: bool = key(True, "false: leave out what only stands for a model whose weights do not exist")
    draw: int | None = key(None, "how many of the catalogue's members, drawn at random; null: all", least=1)
    draw_seed: int = key(0, "of that draw")
    members: dict[str, dict[str, Any] | None] = key(
        {}, "own members, and keys in which one differs from the catalogue, as in committee.members.NAME.weights=FILE"
    )
    member_defaults: dict[str, Any] = key({}, "keys that every member has unless it says otherwise")
    input_size: int | None = key(
        None,
        "pixels that every member sees, in place of its library's or the data set's; its short edge changes in"
        " proportion. 224 is the paper's criterion, and what the authors' weights see; of the libraries' 81 four see"
        " 160 or 256 pixels (`xconsensus ls members` marks them)",
        least=1,
        most=LARGEST_SIDE,
    )
    random_members: int = key(
        0,
        "further members of random weights, with the others' architectures in turn (section 5.1); a single one has"
        " random: true. They vote, and images are chosen without them",
        least=0,
    )
    weights_dir: Folder | None = key(
        None,
        "folder of the members' relative weights files and .py files, and of MEMBER.safetensors, MEMBER.pth or"
        " MEMBER.pt to be read in place of pretrained weights that are downloaded",
    )
    allow_missing: bool = key(
        False, "true: choose images, vote and score without the members that lack predictions or explanations"
    )
    only: list[str] | None = key(None, "names of the members to work on, null: all; `vote` and `score` need all")
    scored: list[str] | None = key(None, "names of the members that `score` and `plot` show, null: all; all vote")
    family: str | list[str] | None = key(None, "the committee's own plot.family, of the members that are scored")


@dataclass(frozen=True)
class Finetune:
    """How members are trained."""

    epochs: int = key(30, "not in the paper", least=1)
    learning_rate: float = key(0.01, "paper, 4.1.2; it falls as a cosine, which is not in the paper", above=0)
    momentum: float = key(0.9, "paper, 4.1.2", least=0, below=1)
    batch_size: int = key(64, "paper, 4.1.2", least=1)
    weight_decay: float = key(1.0e-4, "not in the paper", least=0)
    warmup_epochs: float = key(0, "linear, within the epochs", least=0)
    clip_norm: float | None = key(None, "largest norm of the gradient; null: any", above=0)
    frozen_statistics: bool = key(
        False, "batch normalisation keeps its statistics: for weights in which it was folded away"
    )
    prepare: bool = key(
        False,
        "before the first step, batch normalisation that is an identity or folded away (committee.members.NAME.folded)"
        " is put back, and the head is zero; networks without any get a linear probe as their head. Not in the paper",
    )
    probed_learning_rate: float = key(0.001, "in place of learning_rate for networks with a probe; not in the paper")
    random_crop: bool = key(True, "of input_size out of the short edge at resize; paper: 224 of 256")
    flip: float = key(0.5, "probability of a horizontal flip; not in the paper", least=0, most=1)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = key(
        "auto",
        "auto (not in the paper: on GPUs bfloat16 where they have it, else float16 with the loss scaled; float32"
        " elsewhere) | float32 | bfloat16 | float16",
    )
    eval_batch_size: int = key(256, "images a pass of predictions", least=1)
    cache_gib: float = key(4.0, "decoded training images are kept in memory up to this size", least=0)
    schedule: Any = key(None, "taken out; only the value that changed nothing is still taken")
    keep: Any = key(None, "taken out, as schedule")
    validation: Any = key(None, "taken out, as schedule")
    label_smoothing: Any = key(None, "taken out, as schedule")


@dataclass(frozen=True)
class Explain:
    """Which images are explained, and how they are computed."""

    images: int | None = key(50, "how many images at most; null: all. The number is unknown in the paper", least=1)
    per_class: int | None = key(None, "how many of each class at most; null: any number", least=1)
    sample: Literal["first", "random"] = key(
        "first",
        "first of each class in sorted order (the M4 benchmark's habit), then second ones, of classes spread evenly"
        " where a round has more than images are left | random, by the seed",
    )
    only_correct: Literal["all", "any", "none"] = key(
        "all", "images that all | any of the members classify correctly, or none: do not ask"
    )
    batch_size: Literal["auto"] | int = key(
        "auto",
        "perturbed images a pass at most; auto: a million pixels on a CPU (20 of 224x224; more are slower), else 256."
        " Halved, with a note, where memory does not suffice",
        least=1,
    )
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = key(
        "auto",
        "auto: by the device and the network, float16 on GPUs, int8 for LIME on CPUs that multiply bytes, where they"
        " change little and pay, else float32",
    )
    compile: Any = key(None, "taken out; only the value that changed nothing is still taken")
    shard_images: int = key(64, "images a file", least=1)


@dataclass(frozen=True)
class Score:
    """`score` also reads plot.trials, plot.family and plot.extras."""

    bootstrap: int = key(2000, "resamplings of the images for the intervals", least=1)
    level: float = key(0.95, "of all intervals", above=0, below=1)
    ap_weights: Literal["signed", "absolute", "squared"] = key(
        "signed",
        "maps whose average precision is measured, of members and consensus alike: signed, as explained and as voted"
        " (LIME's vote is of squares) | absolute | squared",
    )

    rules: list[str] | None = key(
        ["normalised_squares+cosine_squared", "signed+cosine", "positive+cosine"],
        "votes and similarities, and sigmas of the RBF, beside the explainer's own, as VOTE+SIMILARITY or"
        " min_max+rbf+2.5, from the same explanations; null: none. Not in the paper",
    )
    shares: list[float] = key(
        [0, 0.25, 0.5, 0.75, 0.9],
        "of random members among the voters, where the committee has any (section 5.1)",
        least=0,
        below=1,
    )
    labelled: list[int] = key(
        [10, 30, 100], "labelled images beside which accuracy is estimated from scores (section 5.2)", least=1
    )
    draws: int = key(1000, "of so many images each", least=1)


@dataclass(frozen=True)
class Locate:
    """Boxes and masks of what maps point at: `xconsensus locate`, docs/locating.md."""

    threshold: Literal["otsu"] | float = key(
        0.2, "where the object begins, as a fraction of the largest value once the lowest is 0 | otsu", above=0, most=1
    )
    members: list[str] | None = key(
        None, "names of the members that get boxes and masks as the consensus does; null: none"
    )


@dataclass(frozen=True)
class Plot:
    """Of these, what cannot be drawn from the run is left out, with the reason."""

    figures: list[str] = key(
        [*(f"fig{number:02}" for number in range(1, 16)), "sec51", "sec452", "diluted", "pairs"],
        "figures that are drawn",
    )
    tables: list[str] = key(
        [
            *("table1", "table2", "correlations", "intervals", "subsets", "several", "measures", "rules", "baselines"),
            *("sigma", "estimation", "comparison"),
        ],
        "tables that are written",
    )
    gallery: int = key(3, "how many images get a figure of their own (figures 2, 3 and 9)", least=1)
    gallery_members: int = key(13, "how many members those show, from the most to the least accurate", least=1)
    gallery_rows: int = key(6, "images in one figure (12 to 15)", least=1)
    ensemble: Literal["averaging", "voting"] = key(
        "averaging",
        "the consensus's accuracy in figure 4 and table 2: averaging of probabilities | voting, by majority; the"
        ' paper\'s one number is of "averaging and voting"',
    )
    clip_percent: float = key(
        1.0,
        "of a map's pixels, those of the largest values share one colour (figures 1 to 3, 9, 12 to 15)",
        least=0,
        below=100,
    )
    negative: bool = key(True, "negative weights, evidence against the class, in blue; false: not shown")
    panels: list[str] | None = key(None, "of figure 11: several runs as [DATASET/COMMITTEE, ...]; null: this one")
    published: str | None = key(
        None,
        "the paper's data set that this one is: imagenet | cub200 | cars196 | flowers102 | food101. null: one's own,"
        " beside the nearest: with masks cub200, else its loader's, else imagenet",
    )
    trials: int = key(20, "read by `score`: random committees a size (figure 8), and of section 4.5.2", least=1)
    family: str | list[str] | None = key(
        "${committee.family}",
        "read by `score`: of figure 7 and section 4.5.2: a family's name or a list of members; null: the largest",
    )
    extras: list[int] = key(
        [10, 20],
        "read by `score`: how many others join it at least and at most in a random committee (section 4.5.2)",
    )


@dataclass(frozen=True)
class Config:
    """The whole config. What every stage shares: each stage reads the keys it needs."""

    output_dir: Folder = key("outputs", "artefacts go to <output_dir>/<dataset.name>/")
    seed: int = key(0, "of every random draw, together with the image id", least=0)
    device: str = key("auto", "auto | cpu | cuda | cuda:1, or 1 ...; Apple's mps is not supported")
    threads: int | None = key(None, "CPU threads; null: torch's own choice", least=1)
    progress: Literal["auto", "bar", "log", "off"] = key("auto", "how long work is followed")
    dry_run: bool = key(False, "check all input, say what would be done, do nothing")
    overwrite: bool = key(False, "make again what exists with other settings, instead of stopping")
    shard: int = key(0, "which of the `shards` jobs that share finetune or explain this one is, as in")
    shards: int = key(
        1, "`xconsensus explain -m 'shard=range(16)' shards=16 hydra/launcher=joblib`; see docs/clusters.md", least=1
    )
    on_bad_image: Literal["stop", "skip"] = key(
        "stop",
        "stop | skip (and count) images that cannot be read, are so thin that resizing makes them of more than 67"
        " million pixels, or cannot be explained against their mask",
    )
    verify: bool = key(False, "true: `xconsensus status` reads every file and names those that are damaged")
    explainers: list[str] = key(
        ["lime", "smoothgrad"],
        "what `run` goes through and `plot` shows; explainers.lime.samples=256 is a key of one of them",
    )
    of_explainer: dict[str, dict[str, Any]] = key(
        {}, "keys of one explainer, which explainers.lime.samples=256 becomes; in YAML, of_explainer: {lime: {...}}"
    )
    source: Literal["run", "published"] = key("run", "what plot shows: run | published, the paper's own numbers")
    figure: str | None = key(
        None, "one figure or table for plot, as in figure=fig04; null: those of plot.figures and plot.tables"
    )
    dataset: Dataset = field(default_factory=Dataset)
    committee: Committee = field(default_factory=Committee)
    explainer: Explainer = field(default_factory=Explainer)
    finetune: Finetune = field(default_factory=Finetune)
    explain: Explain = field(default_factory=Explain)
    score: Score = field(default_factory=Score)
    locate: Locate = field(default_factory=Locate)
    plot: Plot = field(default_factory=Plot)


GROUPS = {"dataset": "shapes", "committee": "tiny", "explainer": "lime", "experiment": None}  # and their defaults


OWN = {"dataset": "loader", "explainer": "method"}  # groups whose keys are those of what this key names
KINDS: Mapping[str, Mapping[str, type]] = {"dataset": LOADERS, "explainer": METHODS}


def keys_of(kind: type) -> dict[str, tuple[Any, Field[Any]]]:
    """Name -> type and field of each key of one of the classes above."""
    hints = _hints(kind)
    return {each.name: (hints[each.name], each) for each in fields(kind)}


_hints = cache(get_type_hints)


def sections(values: Mapping[str, Any]) -> dict[str, type]:
    """Dotted prefix -> keys that may stand below it: of the loader and method in the config's ``values`` too."""
    found: dict[str, type] = {"": Config}
    found |= {f"{name}.": kind for name, (kind, _) in keys_of(Config).items() if is_dataclass(kind)}  # type: ignore[misc]
    for group, own in OWN.items():
        chosen = values[group].get(own) if isinstance(values.get(group), Mapping) else None
        found[f"{group}."] = KINDS[group].get(str(chosen), found[f"{group}."])
    return found


def defaults(kind: type = Config) -> dict[str, Any]:
    """The defaults of all keys that have one, as nested values."""
    found = {}
    for name, (hint, each) in keys_of(kind).items():
        value = defaults(hint) if is_dataclass(hint) else deepcopy(each.metadata["default"])  # type: ignore[arg-type]
        if value != REQUIRED:
            found[name] = value
    return found


_ORDER = ["_self_", *({group: option} for group, option in GROUPS.items())]
ConfigStore.instance().store("base", {"defaults": _ORDER, **defaults()})
