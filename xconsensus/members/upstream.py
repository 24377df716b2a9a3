"""What timm, torchvision and PaddleClas know: their models, weights tags, and the preprocessing of each tag.

``tag`` is a weights tag of the library, or True for its default. Every error names the member at fault, ``name``.
Nothing here builds a network or downloads.
"""

import math
import re
from pathlib import Path
from typing import Any

from xconsensus.errors import InputError, nearest
from xconsensus.members.paddle import table

# torchvision's models whose weights were trained on inputs in -1..1, and beside two or one auxiliary heads.
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def check_model(name: str, library: str, model: str) -> None:
    """InputError unless the library has the model."""
    if library == "paddle":
        table.entry(model, name)
        return
    from xconsensus.compat import torchvision  # noqa: I001  (timm imports torchvision)
    import timm

    if library == "timm":
        _check_hub_name(name, model)
        if not timm.is_model(model.split(".")[0]):
            raise InputError(f"member {name}: timm has no model {model!r}{nearest(model, timm.list_models())}")
    else:
        known = torchvision.models.list_models(module=torchvision.models)
        if model not in known:
            raise InputError(f"member {name}: torchvision has no model {model!r}{nearest(model, known)}")


def _check_hub_name(name: str, model: str) -> None:
    """InputError for a name as timm takes it from the Hugging Face hub: members are built without asking it."""
    owner, slash, net = re.sub(r"^(hf[-_]hub|local-dir):", "", model).partition("/")
    if not slash:
        return
    if owner == "timm":
        architecture, _, tag = net.partition(".")
        raise InputError(f"member {name}: write model={model} as model: {architecture}, pretrained: {tag or 'true'}")
    advice = "name the architecture of its config.json as model, and fetch its model.safetensors as weights: FILE"
    raise InputError(f"member {name}: model={model} is not read from the hub; {advice}")


def if_it_is_a_tag(library: str, model: str, word: str) -> str:
    """A clause that names the key to use, for a word that is no file but a weights tag of the model; else empty."""
    if library in ("module", "paddle"):
        return ""
    from xconsensus.compat import torchvision  # noqa: I001  (timm imports torchvision)
    import timm

    tag = word.rpartition(".")[2]  # of ResNet50_Weights.DEFAULT, resnet50.a1_in1k
    if library == "timm":
        known = [full.partition(".")[2] for full in timm.list_pretrained(f"{model.split('.')[0]}.*")]
    else:
        known = list(torchvision.models.get_model_weights(model).__members__)
    return f"; {library}'s own weights are named by pretrained: {tag}" if tag in known else ""


def preprocessing(name: str, library: str, model: str, tag: str | bool) -> dict[str, Any]:
    """What the weights expect: the keys of a member's preprocessing, and kwargs of the model.

    Raises InputError for a tag that does not exist, with the nearest that do, and for weights that see no squares.
    """
    if library == "paddle":
        return _of_paddle(name, model, tag)
    if library == "timm":
        return _of_timm(name, _timm_cfg(name, model, tag))
    if library == "torchvision":
        kwargs = {"aux_logits": False, "transform_input": True} if model in WITH_AUXILIARY_HEADS else {}
        return _of_torchvision(torchvision_weights(name, model, tag)) | {"kwargs": kwargs}
    raise InputError(f"member {name}: library={library} has no pretrained weights, use weights=FILE")


def of_the_architecture(name: str, library: str, model: str) -> dict[str, Any]:
    """What weights of the model expect unless more is known, as `preprocessing`: what its library has as its default,
    of timm by the name's tag where it has one. Empty where it has none.

    Raises InputError for a model that does not exist.
    """
    check_model(name, library, model)
    if library == "paddle":
        return _of_paddle(name, model)
    if library == "torchvision":
        from xconsensus.compat import torchvision

        tags = torchvision.models.get_model_weights(model)
        return _of_torchvision(tags.DEFAULT) if "DEFAULT" in tags.__members__ else {}
    import timm

    try:
        cfg = timm.get_pretrained_cfg(model)
    except RuntimeError:  # of a tag that does not exist: who builds the network says so
        cfg = None
    return _of_timm(name, cfg) if cfg else {}


def _of_paddle(name: str, model: str, tag: str | bool = True) -> dict[str, Any]:
    table.entry(model, name)
    if tag is not True:
        raise InputError(
            f"member {name}: pretrained={tag} is of timm or torchvision: committee.weights=libraries takes these;"
            " PaddleClas has one set of weights: pretrained: true"
        )
    return {**table.PREPROCESSING, "kwargs": {}}


def _of_timm(name: str, cfg: Any) -> dict[str, Any]:
    from timm.data import resolve_data_config

    found = resolve_data_config(pretrained_cfg=cfg.to_dict())
    _, height, width = found["input_size"]
    if height != width:
        raise InputError(f"member {name}: {cfg.architecture} sees {width}x{height} pixels, members see squares")
    resize = math.floor(width / found["crop_pct"])  # rounded as timm does
    return {key: found[key] for key in ("mean", "std", "interpolation", "crop_mode")} | {
        "input_size": width,
        "resize": resize,
        "kwargs": {},
    }


def _of_torchvision(weights: Any) -> dict[str, Any]:
    found = weights.transforms()
    (size,), (resize,) = found.crop_size, found.resize_size
    colours = {"mean": found.mean, "std": found.std}
    how = {"interpolation": found.interpolation.value, "crop_mode": "center", "kwargs": {}}
    return {"input_size": size, "resize": resize, **colours, **how}


def classes_of(name: str, library: str, model: str, tag: str | bool) -> int:
    """How many classes the weights tell apart."""
    if library == "paddle":
        return 1000
    if library == "timm":
        return int(_timm_cfg(name, model, tag).num_classes)
    return len(torchvision_weights(name, model, tag).meta["categories"])


def published_top1(library: str, model: str) -> tuple[float, int] | None:
    """The accuracy on ImageNet that is published of PaddleClas's weights, in 0..1, and at how many pixels."""
    entry = table.entries().get(model) if library == "paddle" else None
    return (entry.top1, entry.size) if entry else None


def how_to_get(name: str, library: str, model: str, tag: str | bool) -> str:
    """What to do about weights that cannot be downloaded: which file to fetch, and where to put it."""
    hub, url, filename = source_of(name, library, model, tag)
    file = (filename or "model.safetensors") if hub else url
    source = f"{file} of {hub} on the Hugging Face hub" if hub else url
    weights = timm_name(model, tag) if library == "timm" else str(torchvision_weights(name, model, tag))
    place = f"<committee.weights_dir>/{name}{Path(file).suffix}"
    return f"{library} cannot provide the weights {weights}: fetch {source} elsewhere and put it at {place}"


def source_of(name: str, library: str, model: str, tag: str | bool) -> tuple[str, str, str]:
    """Where weights are downloaded: the repository on the Hugging Face hub or "", else the address, and in the
    repository the file's name where it is not the usual one.
    """
    if library == "timm":
        cfg = _timm_cfg(name, model, tag)
        return cfg.hf_hub_id or "", cfg.url or "", cfg.hf_hub_filename or ""
    return "", torchvision_weights(name, model, tag).url, ""


def local_file(name: str, library: str, folder: Path) -> str | None:
    """The file in ``folder`` that holds the member's pretrained weights by its name, None without one; of several the
    one whose suffix is the library's.
    """
    suffixes = [".safetensors", ".pth", ".pt", ".pdparams", ".tar"]
    paths = (folder / f"{name}{suffix}" for suffix in suffixes[:: -1 if library == "paddle" else 1])
    return next((str(path) for path in paths if path.is_file()), None)


def timm_name(model: str, tag: str | bool) -> str:
    """The model as timm names it with its weights."""
    return f"{model}.{tag}" if isinstance(tag, str) else model


def torchvision_weights(name: str, model: str, tag: str | bool) -> Any:
    """The tag as a member of torchvision's Weights enum; InputError for one that does not exist."""
    from xconsensus.compat import torchvision

    tags = torchvision.models.get_model_weights(model)
    if tag is True:
        return tags.DEFAULT
    if tag not in tags.__members__:
        known = nearest(str(tag), tags.__members__)
        raise InputError(f"member {name}: torchvision has no weights pretrained={tag} of {model}{known}")
    return tags[tag]


def _timm_cfg(name: str, model: str, tag: str | bool) -> Any:
    from xconsensus.compat import torchvision  # noqa: F401, I001  (timm imports torchvision)
    import timm

    _check_hub_name(name, model)
    try:
        cfg = timm.get_pretrained_cfg(timm_name(model, tag))
    except RuntimeError:
        cfg = None
    if cfg is None or not cfg.has_weights:
        known = [known.partition(".")[2] for known in timm.list_pretrained(f"{model.split('.')[0]}.*")]
        raise InputError(f"member {name}: timm has no weights pretrained={tag} of {model}{nearest(str(tag), known)}")
    return cfg
