"""torchvision, imported so that missing compiled operators do not stop the program.

A torchvision wheel compiled for another torch build (say a CUDA wheel beside a CPU torch) has models, transforms
and data sets that work, but its import stops at ``operator torchvision::nms does not exist``: Python code registers
shape functions for two operators that the compiled library never defined. Defining their schemas is all it needs;
nothing here ever calls them. On a healthy install the first import succeeds and nothing else happens.
Import torchvision and timm (which imports torchvision) after this module.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for _name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[_name]  # the half-imported remains
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _schemas.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
