"""Batch norm folded into the convolution before it: the same outputs to rounding, with fewer passes over memory."""

from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

CLOSE = 1e-4  # of the largest output: what folding in float32 moves is a hundredth of it


class Uses:
    """Which batch norm takes which convolution's output, found by running a network once with hooks."""

    def __init__(self, network: nn.Module, images: Tensor):
        self.outputs: dict[int, tuple[Any, Tensor]] = {}  # by identity of the tensor, which is kept alive
        self.calls: Counter[nn.Module] = Counter()
        self.pairs: dict[nn.Module, set[nn.Module | None]] = {}  # batch norm -> convolutions
        hooks = []
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                hooks.append(module.register_forward_hook(self._note_output))
            elif type(module) in (nn.BatchNorm2d, BatchNormAct2d):
                hooks.append(module.register_forward_pre_hook(self._note_input))
        try:
            with torch.no_grad():
                self.result = network(images)
        finally:
            for hook in hooks:
                hook.remove()
            self.outputs.clear()

    def _note_output(self, module: nn.Module, given: Any, output: Tensor) -> None:
        self.calls[module] += 1
        self.outputs[id(output)] = (module, output)

    def _note_input(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        before, _ = self.outputs.get(id(given[0]), (None, None))
        self.calls[module] += 1
        self.pairs.setdefault(module, set()).add(before)

    def find_pairs(self) -> list[tuple[Any, Any]]:
        """Return the pairs (convolution, batch norm) that always follow each other, and are no one else's."""
        found = [(next(iter(befores)), norm) for norm, befores in self.pairs.items() if len(befores) == 1]
        shared = Counter(before for before, _ in found)
        return [
            (conv, norm) for conv, norm in found
            if conv is not None and shared[conv] == 1 and self.calls[conv] == self.calls[norm]
            and not (isinstance(conv, nn.ConvTranspose2d) and conv.groups > 1)
        ]  # fmt: skip


def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Fold the batch norms of a network in evaluation mode into the convolutions that they follow, in place.

    `images` is a batch that it takes; it is run before and after, and where its outputs do not stay the same but for
    rounding, since a convolution's output has another use besides, nothing is folded. Returns how many were folded.
    The network can judge as before; its weights no longer fit a checkpoint.
    """
    uses = Uses(network, images)
    parents = {child: (parent, name) for parent in network.modules() for name, child in parent.named_children()}
    undo = []
    for conv, norm in uses.find_pairs():
        if norm.training or norm.running_mean is None or norm not in parents:
            continue
        undo.append((conv, conv.weight, conv.bias, *parents[norm], norm))
        fold(conv, norm)
        parent, name = parents[norm]
        setattr(parent, name, nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity())
    with torch.no_grad():
        after = network(images)
    if all(is_close(b, a) for b, a in zip(uses.result, after, strict=True)):
        return len(undo)
    for conv, weight, bias, parent, name, norm in undo:
        conv.weight, conv.bias = weight, bias
        setattr(parent, name, norm)
    return 0


def fold(conv: Any, norm: Any) -> None:
    """Replace a convolution's weights by those that do the batch norm's work, too; worked out in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    bias = -norm.running_mean.double() if conv.bias is None else conv.bias.detach().double() - norm.running_mean
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias.detach()
    # Of a transposed convolution the channels that come out are the second axis.
    shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    weight = conv.weight.detach() * scale.view(shape)  # laid out in memory as before
    conv.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
    conv.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)


def is_close(before: Tensor, after: Tensor) -> bool:
    """Return whether two tensors differ by no more than `CLOSE` of the first one's largest value."""
    return bool((before - after).abs().max() <= CLOSE * before.abs().max())
