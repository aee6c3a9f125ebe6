"""What an exported file computes, and its graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from kdad.errors import UserError
from kdad.inference.decision import Decision

if TYPE_CHECKING:
    from kdad.models.base import KDDetector

INPUT = "images"
OUTPUTS = ("anomaly_map", "score", "normalised", "is_anomalous")
MOST = 4096  # images in a batch, which a graph of dynamic shape has to be told


class Judge(nn.Module):
    """Images (B, 3, H, W), float32 in [0, 1] -> `OUTPUTS`; the last two only where there is a decision.

    anomaly_map (B, 1, H, W) and score (B,) are a test phase's, normalised (B,) is in (0, 1) with 0.5 at the threshold,
    is_anomalous (B,) is bool. `half` computes in float16.
    """

    def __init__(self, network: "KDDetector", decision: Decision | None, half: bool = False):
        super().__init__()
        self.network, self.decision, self.half_precision = network, decision, half
        self.names = OUTPUTS if decision else OUTPUTS[:2]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.network.detect({"image": images.half() if self.half_precision else images})
        maps, scores = found.anomaly_map.float(), found.image_score.float()
        if self.decision is None:
            return maps, scores
        scale: Any = self.decision.image  # which takes tensors as it takes numbers
        return maps, scores, scale.normalise(scores), scores > scale.threshold


class Probe(nn.Module):
    """A judge that also returns the output of every layer that has none below it, in the order of their running."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge
        self.names: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        seen: dict[str, Tensor] = {}
        with watch_layers(self.judge, seen):
            found = self.judge(images)
        every = seen | dict(zip(self.judge.names, found, strict=True))
        self.names = tuple(every)
        return tuple(every.values())


@contextmanager
def watch_layers(judge: nn.Module, seen: dict[str, Tensor]) -> Iterator[None]:
    """Note the outputs of all layers without layers below them in `seen`, by name, a layer's last call counting."""

    def note(name: str) -> Any:
        def keep(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                # A copy, since an activation after it may write into it.
                seen[name] = output.detach().clone().float()

        return keep

    leaves = [(name, module) for name, module in judge.named_modules() if not list(module.children())]
    hooks = [module.register_forward_hook(note(name.removeprefix("network."))) for name, module in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def trace(judge: Judge | Probe, images: Tensor) -> ExportedProgram:
    """Return the graph of a judge, for batches of any number. Raises `UserError` where torch cannot trace it."""
    network = (judge.judge if isinstance(judge, Probe) else judge).network
    try:
        with torch.no_grad(), write_anew(network):
            module = write_out_gradient(judge, images) if network.differentiates else judge
            shapes = ({0: Dim("batch", min=1, max=MOST)},)
            return torch.export.export(module, (images,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever tracing makes of operations that it does not know
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{network.name}: its graph cannot be exported by torch.export: {reason}") from error


@contextmanager
def write_anew(network: nn.Module) -> Iterator[None]:
    """Let activations in the block write into new memory: tracing what is changed in place takes a third longer."""
    inplace = [module for module in network.modules() if getattr(module, "inplace", False) is True]
    for module in inplace:
        module.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in inplace:
            module.inplace = True  # type: ignore[assignment]


def write_out_gradient(judge: nn.Module, images: Tensor) -> GraphModule:
    """Return a judge that takes gradients as a graph of plain operations, those of the gradient among them."""
    sizes = [DimDynamic.DYNAMIC, DimDynamic.STATIC, DimDynamic.STATIC, DimDynamic.STATIC]
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(images, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
        return make_fx(judge, GRADIENTS, tracing_mode="real", _allow_non_fake_inputs=True)(fake)


def _differentiate_convolution(
    gradient: Tensor, given: Tensor, weight: Tensor, bias_sizes: Any, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int, wanted: list[bool],
) -> tuple[Tensor | None, None, None]:  # fmt: skip
    """Return a convolution's gradient by its input, as another convolution; its weights are fixed."""
    if not wanted[0]:
        return None, None, None
    sizes = zip(given.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    missing = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in sizes]
    turned = [0] * len(stride) if transposed else missing
    convolve = torch.ops.aten.convolution.default
    return convolve(gradient, weight, None, stride, padding, dilation, not transposed, turned, groups), None, None


def _differentiate_max_pool(gradient: Tensor, given: Tensor, *rest: Any) -> Tensor:
    """Return a max-pool's gradient by its input: each value goes where its maximum was."""
    places = rest[-1].flatten(2)
    return torch.zeros_like(given).flatten(2).scatter_add(2, places, gradient.flatten(2)).view_as(given)


def _pad(given: Tensor, pad: list[int], value: float = 0) -> Tensor:
    """Pad, or cut where a number is negative, axis by axis from the last: torch's own fixes the number of images."""
    for i, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        axis = given.ndim - 1 - i
        size = given.shape[axis]
        given = given.narrow(axis, max(0, -before), size - max(0, -before) - max(0, -after))
        sides = [[*given.shape[:axis], width, *given.shape[axis + 1 :]] for width in (max(0, before), max(0, after))]
        first, last = (given.new_full(side, value) for side in sides)
        given = torch.cat([first, given, last], axis)
    return given


GRADIENTS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution_backward.default: _differentiate_convolution,
    torch.ops.aten.max_pool2d_with_indices_backward.default: _differentiate_max_pool,
    torch.ops.aten.constant_pad_nd.default: _pad,  # its gradient is the same with negative numbers
}
