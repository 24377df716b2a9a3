"""Forward passes in 8-bit integers, on processors that multiply bytes: several times as fast as in float32.

Convolutions take bytes and weights of 8 bits (Jacob et al. 2018, doi:10.1109/CVPR.2018.00286); the stem, additions,
pooling and the head stay in float32. What a byte stands for is set anew for each image, by a few of its perturbed
copies, and the mean error that rounding makes in each channel of each layer is taken out of its bias (bias correction,
Nagel et al. 2019, doi:10.1109/ICCV.2019.00141): of an image's own network little is lost.
"""

import copy
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from xconsensus.arithmetic.byte_layers import ByteConv2d, ToBytes
from xconsensus.arithmetic.onednn import Scale, add_to
from xconsensus.members.network import logits_of

# activations that a convolution of bytes computes itself, as oneDNN names them
_MODULES = {nn.ReLU: "relu", nn.ReLU6: "hardtanh", nn.SiLU: "swish", nn.Hardswish: "hardswish"}
_CALLS: dict[Callable[..., Any] | str, str] = {
    **dict.fromkeys((F.relu, torch.relu, "relu", "relu_"), "relu"),
    F.relu6: "hardtanh",
    F.silu: "swish",
    F.hardswish: "hardswish",
}
_ALIKE = 0.5  # the logits' relative error that no network rounded right comes near


class Int8(nn.Module):
    """A model with convolutions of bytes in place of its own, which it leaves as they are.

    Called with normalised inputs (N, 3, H, W), float32, it gives logits (N, classes), float32, after `calibrate`.
    Raises whatever `torch.fx` raises for a model whose code it cannot follow, and ValueError for one without a
    convolution to replace, or with an error that no network rounded right comes near.
    """

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.original = _graph(model)
        self.rounded, self.scales = _with_bytes(self.original)
        with torch.inference_mode():
            expected = self.calibrate(inputs)
            error = (self(inputs) - expected).norm() / expected.norm()
        if not error <= _ALIKE:  # also of NaN
            raise ValueError("8 bits are too few for it")

    def forward(self, inputs: Tensor) -> Tensor:
        return logits_of(self.rounded(inputs))

    def calibrate(self, inputs: Tensor) -> Tensor:
        """Fit what bytes stand for, and biases, to inputs like these (n, 3, H, W); their logits in float32."""
        seen = _Seen(self.original, self.scales)
        logits = logits_of(seen.run(inputs.clone()))  # some models change what they get
        for name, means in seen.means.items():
            if isinstance(convolution := self.rounded.get_submodule(name), ByteConv2d):
                convolution.expect(means)
        self.rounded(inputs.clone())
        return logits


class _Tracer(fx.Tracer):
    """Follows a model's code down to modules that have no others in them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or next(m.children(), None) is None


def _graph(model: nn.Module) -> fx.GraphModule:
    """The model's code as a graph, without the modules that pass on what they get."""
    traced = fx.GraphModule(model, _Tracer().trace(model))
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.recompile()
    return traced


class _Seen(fx.Interpreter):
    """Runs a model in float32; sets the scales of its values, by node, and notes its convolutions' channel means."""

    def __init__(self, original: fx.GraphModule, scales: dict[str, Scale]) -> None:
        super().__init__(original)
        self.scales = scales
        self.means: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.scales:
            low, high = result.movedim(1, -1).aminmax()  # in the order of memory, or it would be copied
            self.scales[n.name].cover(float(low), float(high))
        if n.op == "call_module" and isinstance(self.submodules[str(n.target)], nn.Conv2d):
            self.means[str(n.target)] = result.mean((0, 2, 3))
        return result


@dataclass(frozen=True)
class _Step:
    """A convolution in a graph, and the node that holds its result: its activation's, or its own."""

    node: fx.Node
    last: fx.Node
    activation: str

    @property
    def source(self) -> fx.Node:
        """The node whose value it takes."""
        source = self.node.args[0]
        assert isinstance(source, fx.Node)
        return source


def _with_bytes(original: fx.GraphModule) -> tuple[fx.GraphModule, dict[str, Scale]]:
    """A copy with convolutions of bytes, and the scale of each value that becomes bytes, by its node."""
    rounded = fx.GraphModule(original, copy.deepcopy(original.graph))
    if not (steps := _steps(rounded)):
        raise ValueError("it has no convolution that could")
    convolutions = {step.node for step in steps}
    bytes_only = [step.last for step in steps if step.last.users and convolutions.issuperset(step.last.users)]
    scales = {node: Scale() for node in [*bytes_only, *(step.source for step in steps)]}
    named = {node.name: scale for node, scale in scales.items()}
    for step in steps:
        convolution = rounded.get_submodule(str(step.node.target))
        result = scales[step.last] if step.last in bytes_only else None
        assert isinstance(convolution, nn.Conv2d)
        replaced = ByteConv2d(convolution, step.activation, scales[step.source], result)
        rounded.set_submodule(str(step.node.target), replaced)
    for source in {step.source: None for step in steps if step.source not in bytes_only}:
        _convert(rounded, source, [step.node for step in steps if step.source is source], scales[source])
    modules = dict(rounded.named_modules())
    for step in steps:
        if step.last is not step.node:
            step.last.replace_all_uses_with(step.node)
            rounded.graph.erase_node(step.last)
        _sum_in_place(step.node, modules)
    rounded.recompile()
    return rounded, named


def _steps(model: fx.GraphModule) -> list[_Step]:
    """The convolutions that can take bytes, in the order of the graph; not the first, which sees the image."""
    modules = dict(model.named_modules())
    calls = Counter(node.target for node in model.graph.nodes if node.op == "call_module")
    nodes = [n for n in model.graph.nodes if n.op == "call_module" and isinstance(modules[n.target], nn.Conv2d)]
    able = [node for node in nodes[1:] if calls[node.target] == 1 and _plain(node, modules)]
    activated = [(node, *_activation(node, modules)) for node in able]
    return [_Step(node, last or node, activation) for node, last, activation in activated]


def _plain(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a convolution computes what torch's own does, with zeros around its input."""
    module = modules[str(node.target)]
    assert isinstance(module, nn.Conv2d)
    own = type(module).forward is nn.Conv2d.forward and not is_parametrized(module)
    return own and module.padding_mode == "zeros" and isinstance(module.padding, tuple) and len(node.args) == 1


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node | None, str]:
    """The node of the activation that alone takes a value, and its name; None and "none" where there is no such."""
    (user, *others) = node.users or [node]
    by_module = user.op == "call_module"
    name = _MODULES.get(type(modules[str(user.target)])) if by_module else _CALLS.get(user.target)
    return (None, "none") if others or name is None else (user, name)


def _convert(rounded: fx.GraphModule, source: fx.Node, takers: list[fx.Node], scale: Scale) -> None:
    """Have convolutions, in the order of the graph, take the value of ``source``, which is float32, as bytes."""
    rounded.add_submodule(name := f"bytes_of_{source.name}", ToBytes(scale))
    with rounded.graph.inserting_before(takers[0]):
        converted = rounded.graph.call_module(name, (source,))
    for taker in takers:
        taker.args = (converted,)


def _sum_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Let a sum that alone takes a convolution's result be written over it, and a ReLU with it.

    Models say so themselves, but tracing forgets it.
    """
    (total, *others) = node.users or [node]
    if total.target is not operator.add or others or node not in total.args:
        return
    activated, name = _activation(total, modules)
    own, other = total.args
    total.target, total.args = add_to, (node, other if own is node else own, name == "relu")
    if activated and name == "relu":
        activated.replace_all_uses_with(total)
        node.graph.erase_node(activated)
