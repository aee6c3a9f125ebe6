"""A timm network cut off behind its deepest level: images in, a list of feature maps out."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kdad.errors import UserError
from kdad.geometry import ImageSize, as_pair, name_size
from kdad.teacher.levels import Level, build_network, find_module_path

ASKED = "intermediates."  # before the number of a level that the network itself gives
Measured = tuple[list[tuple[int, int, int]], list[int], list[bool]]  # of each level (C, h, w), stride, channels last


class FeaturePyramid(nn.Module):
    """A timm network cut off behind its deepest requested level.

    `name` is a timm network's, `image_size` what it will see, a number or (height, width).
    Maps (B, 3, H, W) to a list of (B, C, h, w), in the order of `levels`. `channels`, `strides` and `shapes`
    (C, h, w) are measured with one forward pass, never looked up. Weights are random; see `Teacher`.
    """

    def __init__(self, name: str, levels: Sequence[Level], image_size: ImageSize):
        super().__init__()
        self.name = name
        self._outputs: dict[str, Tensor] = {}
        self._overwritten: set[str] = set()  # levels that the network later works on in place
        self._asked: list[int] = []  # levels that are no module's output, but the network's own answer
        image, levels = make_ramp(image_size), [read_asked(level) for level in levels]
        try:
            self.body = build_network(name, image_size)
            self.paths = [find_module_path(self.body, level, name) for level in levels]
            for path in dict.fromkeys(self.paths):
                hook = partial(self._keep, path)
                self.body.get_submodule(path).register_forward_hook(hook)
            self._probe(image)
            measured = self._measure(as_pair(image_size))
        except UserError as error:
            self.body = build_network(name, image_size)
            measured = self._ask(image, levels, error)
        self.shapes, self.strides, self._to_nchw = measured
        self.channels = [c for c, _, _ in self.shapes]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the levels' features of normalised images (B, 3, H, W), shallow to deep: list of (B, C, h, w)."""
        self._run_body(images)
        features = [self._outputs[path] for path in self.paths]
        self._outputs.clear()
        return [f.permute(0, 3, 1, 2) if nhwc else f for f, nhwc in zip(features, self._to_nchw, strict=True)]

    def _keep(self, path: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        # By way of the module: what traces it puts another dictionary in the place of this one.
        self._outputs[path] = output.clone() if path in self._overwritten else output

    def _run_body(self, images: Tensor) -> None:
        """Run the network on images (B, 3, H, W), which leaves each level's output in `_outputs`."""
        if self._asked:
            found = self.body.forward_intermediates(images, indices=self._asked, intermediates_only=True)  # type: ignore[operator]
            self._outputs |= dict(zip(self.paths, found, strict=True))
        else:
            self.body.forward_features(images)  # type: ignore[operator]  # to torch's stub, any attribute is a tensor

    @torch.no_grad()
    def _ask(self, image: Tensor, levels: Sequence[Level], error: UserError) -> Measured:
        """Let the network itself give the levels, which timm numbers but which are no single module's output.

        HRNet, MViT and Twins are such networks. Returns what `_measure` returns. Raises `error`, of the other way,
        where this one does not work either.
        """
        if not hasattr(self.body, "forward_intermediates") or not all(type(level) is int for level in levels):
            raise error
        self._asked = [level for level in levels if isinstance(level, int)]
        self.paths = [f"{ASKED}{level}" for level in self._asked]
        self.modules_before = [{name for name, _ in self.body.named_modules()}] * len(levels)
        was_training = self.body.training
        try:
            self.body.eval()
            self._run_body(image)
            measured = self._measure(tuple(image.shape[-2:]))
        except Exception:  # whatever a network makes of it
            raise error from None
        self.body.train(was_training)
        return measured

    @torch.no_grad()
    def _probe(self, image: Tensor) -> None:
        """Find out with one image what runs before each level, and remove whatever runs only after the last of them.

        Raises `UserError` where the network does not take the image, or a level gives no tensor.
        """
        ran: list[str] = []
        ran_before: dict[str, int] = {}
        versions: dict[str, int] = {}

        def note_start(name: str) -> Callable:
            return lambda module, args: ran.append(name)

        def note_end(path: str) -> Callable:
            def end(module: nn.Module, args: tuple, output: Tensor) -> None:
                ran_before[path] = len(ran)
                versions[path] = getattr(output, "_version", 0)

            return end

        was_training = self.body.training
        self.body.eval()
        hooks = [m.register_forward_pre_hook(note_start(n)) for n, m in self.body.named_modules() if n]
        hooks += [self.body.get_submodule(path).register_forward_hook(note_end(path)) for path in self.paths]
        try:
            self._run_body(image)
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            size = name_size(tuple(image.shape[-2:]))
            raise UserError(
                f"image_size={size} does not get through backbone.name={self.name}: {reason}. Give a larger "
                "image_size, one that its strides divide, or another backbone"
            ) from error
        for hook in hooks:
            hook.remove()
        for path, output in self._outputs.items():
            if not isinstance(output, Tensor):
                raise UserError(f"levels: {path!r} of {self.name} gives a {type(output).__name__}, not one tensor")
        self._overwritten |= {path for path, f in self._outputs.items() if f._version != versions[path]}
        if self._overwritten:
            self._run_body(image)
        self._cut(image, set(ran[: max(ran_before.values(), default=0)]))
        self.body.train(was_training)
        self.modules_before = [set(ran[: ran_before.get(path, 0)]) for path in self.paths]

    def _measure(self, sides: tuple[int, ...]) -> Measured:
        """Measure the levels of the last run, of an image (height, width), and forget them.

        Returns of each level (C, h, w), its stride, and whether the network keeps its channels last. Raises `UserError`
        where a level is no map of features.
        """
        known = {str(entry["module"]): int(entry["reduction"]) for entry in getattr(self.body, "feature_info", [])}
        widths = {str(entry["module"]): int(entry["num_chs"]) for entry in getattr(self.body, "feature_info", [])}
        shapes, strides, to_nchw = [], [], []
        for path in self.paths:
            if path not in self._outputs:
                raise UserError(f"levels: module {path!r} of {self.name} takes no part in computing features")
            shape = tuple(self._outputs[path].shape)
            nhwc = keeps_channels_last(shape, sides, widths.get(path))
            c, h, w = (shape[3], *shape[1:3]) if nhwc else (0, 0, 1) if len(shape) != 4 else shape[1:]
            if not is_scaled(h, w, sides):
                raise UserError(
                    f"levels: {path!r} of {self.name} gives a tensor of shape {shape}, not a feature map (B, C, h, w). "
                    "Choose a convolutional or hierarchical backbone, or another level."
                )
            shapes.append((c, h, w))
            # Sizes that are odd are rounded on the way down, so a stride fits maps that are a pixel larger or smaller.
            measured = 2 ** round(math.log2(max(sides) / max(h, w)))
            stride = known.get(path, measured)
            fits = all(abs(n - side / stride) <= 1 for n, side in zip((h, w), sides, strict=True))
            strides.append(stride if max(h, w) <= 2 or fits else measured)
            to_nchw.append(nhwc)
        self._outputs.clear()
        return shapes, strides, to_nchw

    def _cut(self, image: Tensor, needed: set[str]) -> None:
        """Replace each module outside `needed` that lies in nothing but plain sequences, if the levels stay the same.

        Inside a residual block nothing is cut, since its sum would not fit any more.
        """
        before = {path: output.clone() for path, output in self._outputs.items()}
        cut, waiting = [], [("", self.body)]
        while waiting:
            prefix, parent = waiting.pop()
            for child, module in list(parent.named_children()):
                if prefix + child not in needed:
                    cut.append((parent, child, module))
                    setattr(parent, child, nn.Identity())
                elif isinstance(module, nn.Sequential):
                    waiting.append((f"{prefix}{child}.", module))
        try:
            self._run_body(image)
            same = all(torch.equal(before[path], self._outputs[path]) for path in before)
        except Exception:  # whatever a network makes of a part that is missing
            same = False
        if not same:  # a network that is more than its modules in a row: keep it whole
            for parent, child, module in cut:
                setattr(parent, child, module)
        self._outputs.update(before)


def read_asked(level: Level) -> Level:
    """Return a level as its number, where it is given by the path that this class makes of one that is no module's."""
    number = str(level).removeprefix(ASKED)
    return int(number) if number != str(level) and number.isdigit() else level


def make_ramp(image_size: ImageSize) -> Tensor:
    """Return one image (1, 3, H, W) with values from -1 to 1, to try networks with."""
    height, width = as_pair(image_size)
    return torch.linspace(-1, 1, 3 * height * width).view(1, 3, height, width)


def is_scaled(h: int, w: int, sides: tuple[int, ...]) -> bool:
    """Return whether (h, w) may be the size of a level of an image of these sides: as oblong, and no larger."""
    if sides[0] == sides[1]:
        return h == w and 1 <= h <= sides[0]
    if not (1 <= h <= sides[0] and 1 <= w <= sides[1]):
        return False
    return abs(math.log2(sides[0] / h) - math.log2(sides[1] / w)) < 0.75  # odd sizes are rounded on the way down


def keeps_channels_last(shape: tuple[int, ...], sides: tuple[int, ...], channels: int | None) -> bool:
    """Return whether a level (B, ?, ?, ?) has its channels last, as Swin-like networks do.

    The two sizes that may be an image's then come first; where others may, too, timm's number of channels decides.
    """
    if len(shape) != 4:
        return False
    if sides[0] == sides[1]:
        return shape[1] == shape[2] != shape[3]
    if not is_scaled(shape[1], shape[2], sides):
        return False
    return not is_scaled(shape[2], shape[3], sides) or (shape[3] == channels != shape[1])
