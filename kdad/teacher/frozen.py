"""The teacher: a frozen, pre-trained pyramid, and how its weights are loaded and recognised."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from kdad.errors import UserError
from kdad.geometry import ImageSize
from kdad.teacher.levels import Level, build_network, read_pretrained_cfg
from kdad.teacher.pyramid import FeaturePyramid
from kdad.teacher.weights import find_weights, match_keys, read_weights


class Teacher(FeaturePyramid):
    """A frozen, pre-trained `FeaturePyramid`.

    `name` is a timm network's, <model>.<tag>. `levels` is a list of indices and module paths, or "auto": then `auto`,
    a detector's rule such as `at_strides` makes, chooses them from that name. `image_size` is what it will see, a
    number or (height, width). `weights` is a local .pth or .safetensors file, `package:<package>/<path>`
    for a file inside an installed package, or None for timm's hub; `weight_keys="in_order"` matches a
    file's tensors to timm's by position instead of by name. `pretrained=False` leaves random weights.

    Raises `UserError` for an unknown name or level, and for weights that cannot be had or do not fit.
    """

    mean: tuple[float, ...]  # that the teacher's images are normalised by, per channel
    std: tuple[float, ...]

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        weight_keys: str = "by_name",
        pretrained: bool = True,
        levels: Sequence[Level] | str = "auto",
        auto: Callable[[str], list[Level]] | None = None,
        image_size: ImageSize = 256,
    ):
        cfg = read_pretrained_cfg(name)
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
            load_weights(self.body, state, file)
            self.fingerprint = fingerprint(state)
        else:
            self.fingerprint = fingerprint(self.body.state_dict())
        self.tag = f"{cfg.architecture or name.split('.')[0]}" + (f".{cfg.tag}" if cfg.tag else "")
        self.source = str(weights or f"timm hub: {cfg.hf_hub_id}") if pretrained else "random"
        self.mean, self.std = tuple(cfg.mean), tuple(cfg.std)
        self.requires_grad_(False)
        self.eval()
        # Each level's own, since how far the network goes on behind it does not change its features.
        self.level_fingerprints = [fingerprint(self.body.state_dict(), before) for before in self.modules_before]

    def adopt(self, state: Mapping[str, Tensor], identity: Mapping[str, str]) -> None:
        """Take weights of `body` that were kept elsewhere, and what a checkpoint recognises their teacher by.

        Raises `UserError` where they do not fit.
        """
        try:
            self.body.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"the teacher's weights in this checkpoint do not fit {self.tag}: {error}") from error
        self.fingerprint, self.source = identity["fingerprint"], "the checkpoint"
        self.level_fingerprints = [fingerprint(self.body.state_dict(), before) for before in self.modules_before]

    def identify(self) -> dict[str, str]:
        """Return what a checkpoint keeps to recognise its teacher by: backbone, fingerprint of its weights, levels."""
        return {"backbone": self.tag, "fingerprint": self.fingerprint, "levels": " ".join(self.paths)}

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode, whatever `mode` is: batch-norm statistics must not drift when a parent trains."""
        return super().train(False)


def load_weights(network: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Load those tensors of a file's `state` that `network` has; ignore those of a head or of deeper stages.

    Raises `UserError` where one is missing or has another shape.
    """
    own = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in state]
    other = {k: v for k, v in own.items() if k in state and state[k].shape != v.shape}
    misfits = [f"{k}: {tuple(state[k].shape)} for {tuple(v.shape)}" for k, v in other.items()]
    if missing or misfits:
        raise UserError(
            f"backbone.weights={file}: not the weights of this backbone. {len(missing)} tensors missing "
            f"({', '.join(missing[:3])}), {len(misfits)} of another shape ({'; '.join(misfits[:3])}). "
            "Check backbone.name and backbone.weight_keys."
        )
    network.load_state_dict({k: state[k].to(v.dtype) for k, v in own.items()}, strict=False)


def fingerprint(state: dict[str, Tensor], modules: set[str] | None = None) -> str:
    """Return 16 hex digits that stand for the tensors of a network's state, or of some of its `modules` alone.

    `state` is a `state_dict()`, tensors of any shape. The digits are of the SHA-256 of names, shapes and bytes; batch
    norm's counts of batches are left out.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        counted = modules is None or key.rpartition(".")[0] in modules
        if counted and not key.endswith("num_batches_tracked"):
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
