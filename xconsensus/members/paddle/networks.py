"""PaddleClas's architectures, each as the network of timm or torchvision that it is but for a few layers.

Every function gives a network of random weights; `tensors` knows where its order is not PaddleClas's.
What differs from the libraries is read from PaddleClas's ``ppcls/arch/backbone`` and, for release 1.8, from
PaddlePaddle/models (both Apache-2.0).
"""

from xconsensus.compat import torchvision

# isort: split
# timm imports torchvision
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import SEModule
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.dpn import DPN
from timm.models.efficientnet import EfficientNet
from timm.models.res2net import Bottle2neck
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.xception_aligned import XceptionAligned
from torch import Tensor, nn

from xconsensus.members.paddle.inception_v4 import inception_v4
from xconsensus.members.paddle.xception import xception

_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_DEPTHS |= {200: (3, 12, 48, 3)}  # timm's resnet200d has 3, 24, 36, 3
_VARIANTS: Mapping[str, Mapping[str, Any]] = {  # of "Bag of Tricks for Image Classification" (arXiv:1812.01187)
    "": {},
    "vc": {"stem_type": "deep"},
    "vd": {"stem_type": "deep", "avg_down": True},
}


def resnet(depth: int, variant: str = "", squeeze: bool = False, stem_width: int = 32, **kwargs: Any) -> nn.Module:
    """ResNet, SE-ResNet and ResNeXt; blocks of two layers have a projection in the first one's shortcut too.

    Parameters
    ----------
    depth : number of layers.
    variant : vd or vc, whose stem begins with ``stem_width`` channels; empty for the plain one.
    squeeze : whether blocks have squeeze-and-excitation, of widths that are not rounded.
    stem_width : see ``variant``.
    kwargs : of timm's ResNet.
    """
    kwargs.setdefault("block", BasicBlock if depth < 50 else Bottleneck)
    kwargs |= {**_VARIANTS[variant]} | ({"stem_width": stem_width} if variant else {})
    if squeeze:
        kwargs["block_args"] = {"attn_layer": partial(SEModule, rd_divisor=1)}
    model: nn.Module = ResNet(layers=_DEPTHS[depth], **kwargs)
    if depth < 50:
        projection = nn.Sequential(nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64))
        model.get_submodule("layer1.0").downsample = projection
    return model


def res2net(depth: int, scale: int, **kwargs: Any) -> nn.Module:
    """Res2Net whose first block is an ordinary one, and whose pools leave padding out of the mean."""
    model = resnet(depth, block=Bottle2neck, block_args={"scale": scale}, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.AvgPool2d) and module.padding == 1:
            module.count_include_pad = False
    first: Any = model.get_submodule("layer1.0")
    first.is_first, first.pool = False, None
    return model


def hrnet(model: str, **kwargs: Any) -> nn.Module:
    """HRNet without the biases of its downsampling convolutions and of its last one."""
    network: Any = timm.create_model(model, **kwargs)
    for module in (*(each[0] for each in network.downsamp_modules), network.final_layer[0]):
        module.bias = None
    return network  # type: ignore[no-any-return]


def densenet(**kwargs: Any) -> nn.Module:
    """DenseNet as torchvision's."""
    model: nn.Module = torchvision.models.DenseNet(**kwargs)
    return model


def dpn(**kwargs: Any) -> nn.Module:
    """Dual path network with batch normalisation's usual epsilon, and ReLU last too."""
    return _with_epsilon(DPN(fc_act_layer="relu", **kwargs), 1e-5)


def darknet(**kwargs: Any) -> nn.Module:
    """DarkNet-53 with ReLU in place of leaky ReLU."""
    model: nn.Module = timm.create_model("darknet53", act_layer="relu", **kwargs)
    return model


def efficientnet(model: str, symmetric: Sequence[int], **kwargs: Any) -> nn.Module:
    """EfficientNet padded as its nominal size needs it, whatever it sees: at the ``symmetric`` stages on both sides."""
    network: Any = timm.create_model(model, **kwargs)
    for stage in symmetric:
        block = network.blocks[stage][0]
        old = block.conv_dw
        geometry = (old.in_channels, old.out_channels, old.kernel_size, old.stride, old.kernel_size[0] // 2)
        block.conv_dw = nn.Conv2d(*geometry, groups=old.groups, bias=False)
    return network  # type: ignore[no-any-return]


def efficientnet_small(padding: str = "", **kwargs: Any) -> nn.Module:
    """EfficientNet-B0 without squeeze-and-excitation; ``padding`` as timm names it."""
    stages = "ds_r1_k3_s1_e1_c16 ir_r2_k3_s2_e6_c24 ir_r2_k5_s2_e6_c40 ir_r3_k3_s2_e6_c80"
    stages += " ir_r3_k5_s1_e6_c112 ir_r4_k5_s2_e6_c192 ir_r1_k3_s1_e6_c320"
    definition = decode_arch_def([[stage] for stage in stages.split()])
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    model: nn.Module = EfficientNet(definition, act_layer=nn.SiLU, norm_layer=norm, pad_type=padding, **kwargs)
    return model


def mobilenet_v1(width: float, **kwargs: Any) -> nn.Module:
    """MobileNet v1 with ReLU in place of ReLU6."""
    stages = "dsa_r1_k3_s1_c64 dsa_r2_k3_s2_c128 dsa_r2_k3_s2_c256 dsa_r6_k3_s2_c512 dsa_r2_k3_s2_c1024"
    definition = decode_arch_def([[stage] for stage in stages.split()])
    widths = partial(round_channels, multiplier=width)
    model: nn.Module = EfficientNet(
        definition, num_features=0, stem_size=32, round_chs_fn=widths, act_layer=nn.ReLU, **kwargs
    )
    return model


def mobilenet_v2(width: float, **kwargs: Any) -> nn.Module:
    """MobileNet v2 whose first block has an expanding convolution too, and whose widths are not rounded to eights."""
    rows = [[6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    first = [1 + 1e-9, 16, 1, 1]  # torchvision leaves the expansion out where its factor equals 1
    settings = {"width_mult": width, "round_nearest": 1, "inverted_residual_setting": [first, *rows]}
    model: nn.Module = torchvision.models.MobileNetV2(**settings, **kwargs)
    return model


def shufflenet_v2(widths: list[int], swish: bool = False, **kwargs: Any) -> nn.Module:
    """ShuffleNet v2 as torchvision's, or with ``swish`` in place of ReLU."""
    model: nn.Module = torchvision.models.ShuffleNetV2([4, 8, 4], widths, **kwargs)
    for module in [*model.modules()] if swish else []:
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())
    return model


def vgg(model: str, **kwargs: Any) -> nn.Module:
    """VGG without biases in convolutions."""
    network: nn.Module = torchvision.models.get_model(model, **kwargs)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
    return network


def alexnet(**kwargs: Any) -> nn.Module:
    """AlexNet as torchvision's."""
    model: nn.Module = torchvision.models.alexnet(**kwargs)
    return model


def squeezenet(model: str, **kwargs: Any) -> nn.Module:
    """SqueezeNet whose pools round down; 1.1 pads its first convolution."""
    network: nn.Module = torchvision.models.get_model(model, **kwargs)
    for module in network.modules():
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = False
    if model == "squeezenet1_1":
        network.get_submodule("features.0").padding = (1, 1)  # type: ignore[assignment]
    return network


class _Inception(nn.Module):
    """A block of the first GoogLeNet (arXiv:1409.4842): a branch of 5x5, and one ReLU, after the concatenation."""

    def __init__(self, inputs: int, one: int, in3: int, out3: int, in5: int, out5: int, pooled: int) -> None:
        super().__init__()
        convolution = partial(nn.Conv2d, bias=False)
        self.branch1 = convolution(inputs, one, 1)
        self.branch2 = nn.Sequential(convolution(inputs, in3, 1), convolution(in3, out3, 3, padding=1))
        self.branch3 = nn.Sequential(convolution(inputs, in5, 1), convolution(in5, out5, 5, padding=2))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), convolution(inputs, pooled, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat(
            [self.branch1(inputs), self.branch2(inputs), self.branch3(inputs), self.branch4(inputs)], 1
        ).relu()


def googlenet(**kwargs: Any) -> nn.Module:
    """The first GoogLeNet, without normalisation, its pools rounding down; auxiliary heads are left out."""
    blocks = [partial(nn.Conv2d, bias=False), _Inception, _Inception]
    model = torchvision.models.GoogLeNet(aux_logits=False, init_weights=False, blocks=blocks, **kwargs)
    for number in range(1, 5):
        setattr(model, f"maxpool{number}", nn.MaxPool2d(3, 2))
    return model  # type: ignore[no-any-return]


def xception_deeplab(middle: int, **kwargs: Any) -> nn.Module:
    """Xception as DeepLab has it (timm's aligned one); its last block is dilated."""
    blocks: list[dict[str, Any]] = [
        *({"in_chs": inputs, "out_chs": width, "stride": 2} for inputs, width in ((64, 128), (128, 256), (256, 728))),
        *({"in_chs": 728, "out_chs": 728, "stride": 1} for _ in range(middle)),
        {"in_chs": 728, "out_chs": (728, 1024, 1024), "stride": 2},
        {"in_chs": 1024, "out_chs": (1536, 1536, 2048), "stride": 1, "no_skip": True, "start_with_relu": False},
    ]
    model: nn.Module = XceptionAligned(blocks, norm_layer=partial(nn.BatchNorm2d, eps=1e-3), **kwargs)
    for module in model.get_submodule(f"blocks.{len(blocks) - 1}").modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.dilation = module.padding = (2, 2)
    return model


def _with_epsilon(model: nn.Module, epsilon: float) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = epsilon
    return model


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    function.__name__: function
    for function in (
        *(resnet, res2net, hrnet, densenet, dpn, darknet, efficientnet, efficientnet_small, mobilenet_v1, mobilenet_v2),
        *(shufflenet_v2, vgg, alexnet, squeezenet, googlenet, inception_v4, xception, xception_deeplab),
    )
}
