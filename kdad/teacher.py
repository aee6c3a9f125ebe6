"""The timm feature-extractor layer: a pyramid of features at named levels, and the frozen teacher made of it."""

import hashlib
import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial

import timm
import torch
from torch import Tensor, nn

from kdad.errors import UserError
from kdad.weights import find_weights, match_keys, read_weights

Level = int | str  # an index into timm's feature_info, or the path of a module such as "layer2.0"


def _keep(
    outputs: dict[str, Tensor], overwritten: set[str], path: str, module: nn.Module, args: tuple, output: Tensor
) -> None:
    outputs[path] = output.clone() if path in overwritten else output


class FeaturePyramid(nn.Module):
    """A timm network cut off behind its deepest requested level.

    Maps (B, 3, H, W) to a list of (B, C, h, w), in the order of `levels`. `channels`, `strides` and `shapes`
    (C, h, w) are measured with one forward pass, never looked up. Weights are random; see `Teacher`.
    """

    def __init__(self, name: str, levels: Sequence[Level], image_size: int):
        super().__init__()
        self.name = name
        self.body = build_network(name, image_size)
        self.paths = [module_path(self.body, level, name) for level in levels]
        self._outputs: dict[str, Tensor] = {}
        self._overwritten: set[str] = set()  # levels that the network later works on in place
        for path in dict.fromkeys(self.paths):
            hook = partial(_keep, self._outputs, self._overwritten, path)
            self.body.get_submodule(path).register_forward_hook(hook)
        self.shapes, self.strides, self._to_nchw = self._probe(image_size)
        self.channels = [c for c, _, _ in self.shapes]

    def forward(self, images: Tensor) -> list[Tensor]:
        self.body.forward_features(images)
        features = [self._outputs[path] for path in self.paths]
        self._outputs.clear()
        return [f.permute(0, 3, 1, 2) if nhwc else f for f, nhwc in zip(features, self._to_nchw, strict=True)]

    @torch.no_grad()
    def _probe(self, image_size: int) -> tuple[list[tuple[int, int, int]], list[int], list[bool]]:
        """Measure every level with one image, and remove whatever runs only after the last of them."""
        ran: list[str] = []
        ran_before: dict[str, int] = {}
        versions: dict[str, int] = {}

        def started(name: str) -> Callable:
            return lambda module, args: ran.append(name)

        def ended(path: str) -> Callable:
            def end(module: nn.Module, args: tuple, output: Tensor) -> None:
                ran_before[path] = len(ran)
                versions[path] = getattr(output, "_version", 0)

            return end

        was_training = self.body.training
        self.body.eval()
        hooks = [m.register_forward_pre_hook(started(n)) for n, m in self.body.named_modules() if n]
        hooks += [self.body.get_submodule(path).register_forward_hook(ended(path)) for path in self.paths]
        image = torch.linspace(-1, 1, 3 * image_size**2).view(1, 3, image_size, image_size)
        self.body.forward_features(image)
        for hook in hooks:
            hook.remove()
        for path, output in self._outputs.items():
            if not isinstance(output, Tensor):
                raise UserError(f"levels: {path!r} of {self.name} gives a {type(output).__name__}, not one tensor")
        self._overwritten |= {path for path, f in self._outputs.items() if f._version != versions[path]}
        if self._overwritten:
            self.body.forward_features(image)
        self._cut(image, set(ran[: max(ran_before.values(), default=0)]))
        self.body.train(was_training)
        self.modules_before = [set(ran[: ran_before.get(path, 0)]) for path in self.paths]

        shapes, strides, to_nchw = [], [], []
        for path in self.paths:
            if path not in self._outputs:
                raise UserError(f"levels: module {path!r} of {self.name} takes no part in computing features")
            shape = tuple(self._outputs[path].shape)
            # Swin-like networks keep channels last: there the two equal sizes come first.
            nhwc = len(shape) == 4 and shape[1] == shape[2] != shape[3]
            c, h, w = (shape[3], *shape[1:3]) if nhwc else (0, 0, 1) if len(shape) != 4 else shape[1:]
            if h != w or h < 1 or h > image_size:
                raise UserError(
                    f"levels: {path!r} of {self.name} gives a tensor of shape {shape}, not a feature map (B, C, h, w). "
                    "Choose a convolutional or hierarchical backbone, or another level."
                )
            shapes.append((c, h, w))
            # To the nearest power of two, since odd sizes are rounded on the way down.
            strides.append(2 ** round(math.log2(image_size / h)))
            to_nchw.append(nhwc)
        self._outputs.clear()
        return shapes, strides, to_nchw

    def _cut(self, image: Tensor, needed: set[str]) -> None:
        """Replace every module outside `needed` that plain sequences alone lead to, if the levels stay the same.

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
            self.body.forward_features(image)
            same = all(torch.equal(before[path], self._outputs[path]) for path in before)
        except Exception:  # whatever a network makes of a part that is missing
            same = False
        if not same:  # a network that is more than its modules in a row: keep it whole
            for parent, child, module in cut:
                setattr(parent, child, module)
        self._outputs.update(before)


class Teacher(FeaturePyramid):
    """A frozen, pre-trained `FeaturePyramid`.

    `levels` is a list of indices and module paths, or "auto": then `auto` (a detector's rule) chooses
    them from the timm network. `weights` is a local .pth or .safetensors file, `package:<package>/<path>`
    for a file inside an installed package, or None for timm's hub; `weight_keys="in_order"` matches a
    file's tensors to timm's by position instead of by name. `pretrained=False` leaves random weights.

    Raises `UserError` for an unknown name or level, and for weights that cannot be had or do not fit.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        weight_keys: str = "by_name",
        pretrained: bool = True,
        levels: Sequence[Level] | str = "auto",
        auto: Callable[[str], list[Level]] | None = None,
        image_size: int = 256,
    ):
        check_name(name)
        # Look for the file first: it is what most often fails, and building takes seconds.
        file = find_weights(name, weights) if pretrained else None
        if levels == "auto":
            if auto is None:
                raise UserError("levels: auto needs a detector's rule; give a list such as levels=[1,2,3]")
            levels = auto(name)
        elif isinstance(levels, str) or not levels:
            raise UserError(f"levels: found {levels!r}; give auto or a list such as levels=[1,2,3]")
        super().__init__(name, list(levels), image_size)
        if file is not None:
            # The order of a file's tensors is that of the whole network, so names are matched on that.
            full = list(build_network(name, image_size, meta=True).state_dict().items())
            state = match_keys(read_weights(file), full, weight_keys, file)
            load_needed(self.body, state, file)
            self.fingerprint = fingerprint(state)
        else:
            self.fingerprint = fingerprint(self.body.state_dict())
        cfg = timm.get_pretrained_cfg(name)
        self.tag = f"{cfg.architecture or name.split('.')[0]}" + (f".{cfg.tag}" if cfg.tag else "")
        self.source = str(weights or f"timm hub: {cfg.hf_hub_id}") if pretrained else "random"
        self.mean, self.std = tuple(cfg.mean), tuple(cfg.std)
        self.requires_grad_(False)
        self.eval()
        # Each level's own, since how far the network goes on behind it does not change its features.
        self.level_fingerprints = [fingerprint(self.body.state_dict(), before) for before in self.modules_before]

    def identity(self) -> dict[str, str]:
        """What a checkpoint keeps to recognise its teacher by."""
        return {"backbone": self.tag, "fingerprint": self.fingerprint, "levels": " ".join(self.paths)}

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode, so that batch-norm statistics never drift when a parent is set to train."""
        return super().train(False)


def at_strides(*strides: int) -> Callable[[str], list[Level]]:
    """The rule "the deepest level at each of these strides", over timm's feature_info."""

    def choose(name: str) -> list[Level]:
        found = {entry["reduction"]: index for index, entry in enumerate(feature_info(name))}
        if missing := [s for s in strides if s not in found]:
            raise UserError(
                f"backbone.name={name} has no feature pyramid with strides {', '.join(map(str, strides))}: "
                f"{', '.join(map(str, missing))} missing, found {sorted(found) or 'none'}. Plain vision transformers "
                "keep one stride; choose a convolutional or hierarchical backbone (resnet18.tv_in1k, "
                "convnext_tiny.fb_in1k, ...), or name levels=[...] yourself."
            )
        return [found[s] for s in strides]

    return choose


def feature_info(name: str) -> list[dict]:
    """timm's description of a network's feature levels: module path, reduction (stride), channels."""
    return list(getattr(build_network(name, meta=True), "feature_info", []))


def build_network(name: str, image_size: int | None = None, meta: bool = False) -> nn.Module:
    """A timm network with random weights, on the meta device (no memory, no time) if asked."""
    cfg = timm.get_pretrained_cfg(name)
    # Networks with a fixed grid of positions must be told the size.
    size = {"img_size": image_size} if image_size and cfg is not None and cfg.fixed_input_size else {}
    with torch.device("meta" if meta else "cpu"):
        return timm.create_model(name, pretrained=False, **size)


def check_name(name: str) -> None:
    known = timm.is_model(name.split(".")[0]) and timm.get_pretrained_cfg(name, allow_unregistered=False) is not None
    if not known:
        close = get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=3, cutoff=0.5)
        raise UserError(f"backbone.name={name}: timm has no such model. Nearest: {', '.join(close) or 'none'}")


def module_path(network: nn.Module, level: Level, name: str) -> str:
    """The module path of a level; `UserError` with the valid ones if it does not exist."""
    info = list(getattr(network, "feature_info", []))
    modules = [n for n, _ in network.named_modules() if n]
    if isinstance(level, int) and not isinstance(level, bool):
        if 0 <= level < len(info):
            level = info[level]["module"]
            if level in modules:
                return level
            raise UserError(f"levels: {name} computes {level!r} outside any module; name module paths in levels=[...]")
        listed = ", ".join(f"{i} ({e['module']}, stride {e['reduction']})" for i, e in enumerate(info))
        raise UserError(f"levels: {name} has no level {level}; it has {listed or 'none by index: name module paths'}")
    if level not in modules:
        close = get_close_matches(str(level), modules, n=3)
        raise UserError(f"levels: {name} has no module {level!r}. Nearest: {', '.join(close) or 'none'}")
    return str(level)


def load_needed(network: nn.Module, state: dict[str, Tensor], file: object) -> None:
    """Load every tensor that `network` holds; the file may hold more (a head, deeper stages), not less."""
    own = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in state]
    misfits = [f"{k}: {tuple(state[k].shape)} for {tuple(v.shape)}" for k, v in own.items()
               if k in state and state[k].shape != v.shape]  # fmt: skip
    if missing or misfits:
        raise UserError(
            f"backbone.weights={file}: not the weights of this backbone. {len(missing)} tensors missing "
            f"({', '.join(missing[:3])}), {len(misfits)} of another shape ({'; '.join(misfits[:3])}). "
            "Check backbone.name and backbone.weight_keys."
        )
    network.load_state_dict({k: state[k].to(v.dtype) for k, v in own.items()}, strict=False)


def fingerprint(state: dict[str, Tensor], modules: set[str] | None = None) -> str:
    """Sixteen hex digits of SHA-256 over names, shapes and bytes of the tensors, or of those of `modules` alone."""
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        counted = modules is None or key.rpartition(".")[0] in modules
        if counted and not key.endswith("num_batches_tracked"):
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
