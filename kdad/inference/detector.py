"""A trained detector applied: `kdad.load` gives one, which judges pictures and says where they are anomalous."""

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdad.data.images import resize_image
from kdad.data.intensity import restore_rule
from kdad.data.roi import Roi, restore_roi
from kdad.errors import UserError
from kdad.geometry import Tiles, Tiling, as_pair, read_tiling
from kdad.inference.decision import Decision, read_setting
from kdad.inference.files import find_checkpoint
from kdad.inference.pictures import Picture, is_single, iterate, open_picture
from kdad.inference.prepared import Geometry, Prepared, make_batches, prepare
from kdad.inference.result import Result
from kdad.inference.trained import build_trained, explain_damage
from kdad.models.base import KDDetector
from kdad.speed import keep_float32, lay_out, limit_threads

if TYPE_CHECKING:
    from collections.abc import Iterable

# Lightning's words for what a test phase computes in, older ones too
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16": torch.bfloat16, "16": torch.float16}
WHOLE = {
    "32-true": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64,
    "32": torch.float32, "64": torch.float64,
}  # fmt: skip


class Detector:
    """A trained detector. Called with one picture it returns a `Result`, with several it yields one for each, lazily.

    `load` makes one of what a run has left. `network` is the trained module, `decision` its thresholds or None;
    `precision` is what it computes in, as Lightning's Trainer calls it: 32-true, bf16-mixed and so on, or the number of
    bits alone. `batch_size` is how many pictures of an iterable are judged at once. `tiling` says how pictures are cut,
    `roi` where in them is looked; None: whole, everywhere. Of pictures that are cut one is judged at a time,
    `batch_size` tiles at once. Calls from several threads take turns.

    Attribute `rule` is how values of its pictures become 8 bits, as in training, `image_size` what pictures or tiles
    are resized to. Raises `UserError` for a precision that it does not compute in, and a batch of no picture.

    Examples:
        >>> detector = kdad.load("run", device="cpu")
        >>> result = detector("part.png")
        >>> result.anomaly_map.shape, result.mask.dtype  # of the picture's own height and width
        ((70, 90), dtype('bool'))
        >>> [result.source.name for result in detector(["a.png", "b.png"])]
        ['a.png', 'b.png']
    """

    def __init__(
        self,
        network: KDDetector,
        decision: Decision | None,
        precision: str = "32-true",
        batch_size: int = 16,
        tiling: Tiling | None = None,
        roi: Roi | None = None,
    ):
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: give a whole number, at least 1")
        if precision not in {**AUTOCAST, **WHOLE}:
            raise UserError(
                f"the detector was trained with trainer.precision={precision}, in which kdad does not judge pictures"
            )
        self.network, self.decision, self.batch_size = network, decision, batch_size
        self.image_size, self.rule = network.image_size, restore_rule(network.provenance.get("rule"))
        self.geometry, self.precision, self.tiles_at_once = (
            Geometry(self.image_size, tiling, roi),
            precision,
            batch_size,
        )
        if tiling:
            self.batch_size = 1
        if precision in WHOLE:
            network.to(WHOLE[precision])
        self.setting: dict[str, Any] = {}  # what thresholds of it hold for
        self._turn = threading.Lock()  # the teacher's levels pass through its module

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self.network.device

    def to(self, device: str | torch.device) -> "Detector":
        """Move it to a device, such as cuda or cpu. Returns itself. Raises `UserError` where there is none."""
        try:
            if torch.device(device).type == "meta":
                raise RuntimeError("no device that computes")
            with self._turn:
                self.network.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device={device}: {str(error).splitlines()[0]}") from error
        return self

    @overload
    def __call__(self, pictures: Picture) -> Result: ...  # type: ignore[overload-overlap]  # an array is one picture
    @overload
    def __call__(self, pictures: "Iterable[Picture]") -> Iterator[Result]: ...
    def __call__(self, pictures: Any) -> Result | Iterator[Result]:
        """Judge one picture or several: paths, PIL images, arrays, tensors, or an iterable of them.

        Returns the `Result` of one; of several an iterator, which yields one `Result` for each, in their order. Raises
        `UserError` for a picture that cannot be read, after the results of those before it: see
        `kdad.inference.pictures.open_picture`.
        """
        if is_single(pictures):
            return self.judge([self.open_picture(pictures)], [pictures])[0]
        return self._judge_all(iterate(pictures))

    def _judge_all(self, pictures: Iterator[Picture]) -> Iterator[Result]:
        while batch := list(islice(pictures, self.batch_size)):
            images, failure = [], None
            for picture in batch:
                try:
                    images.append(self.open_picture(picture))
                except UserError as error:  # those before it are judged first
                    failure = error
                    break
            yield from self.judge(images, batch[: len(images)]) if images else ()
            if failure:
                raise failure

    def judge(self, images: Sequence[Image.Image], sources: Sequence[Any] | None = None) -> list[Result]:
        """Judge a batch of upright RGB images of any sizes, each of H x W pixels, which came from `sources`.

        Returns their results, in their order. Raises `UserError` for an image that cannot be prepared as in training.
        """
        sources = sources or [None] * len(images)
        prepared = [self.read(image, source) for image, source in zip(images, sources, strict=True)]
        return self.judge_prepared(prepared, images, sources)

    def judge_prepared(
        self, prepared: Sequence[Prepared], images: Sequence[Image.Image], sources: Sequence[Any]
    ) -> list[Result]:
        """Judge pictures that `read` has prepared from `images`, which came from `sources`. Returns their results."""
        found: list[tuple[float, NDArray[np.float32]]] = []
        for batch in make_batches(prepared):
            found += zip(*self.apply(batch), strict=True)
        for (score, map), source in zip(found, sources, strict=True):
            if not (math.isfinite(score) and np.isfinite(map).all()):
                what = f"of {source}" if isinstance(source, str | os.PathLike) else "of a picture"
                raise UserError(f"the score or map {what} is NaN or infinite: this detector cannot judge it")
        return [
            Result(float(score), map, image, self.decision, source, ready.inside)
            for (score, map), ready, image, source in zip(found, prepared, images, sources, strict=True)
        ]

    def open_picture(self, source: Picture) -> Image.Image:
        """Return a picture as an upright RGB image of H x W pixels, its own, by the rule of training.

        Raises `UserError` for what is no picture.
        """
        return open_picture(source, self.rule)

    def prepare(self, image: Image.Image) -> Tensor:
        """Return an upright RGB image at the detector's size, uint8 (3, h, w), as a data set's is."""
        return resize_image(image, self.image_size)

    def cut(self, image: Image.Image) -> Tiles:
        """Return the tiles of an upright RGB image, of a detector that was trained on tiles."""
        content = self.read(image).content
        assert isinstance(content, Tiles)
        return content

    def read(self, image: Image.Image, source: Any = None) -> Prepared:
        """Prepare an upright RGB image as in training, in tiles if it was so. Raises `UserError`, see `prepare`."""
        path = Path(source) if isinstance(source, str | os.PathLike) else None
        return prepare(image, self.geometry, self.tiles_at_once, path)

    def detect(self, images: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return scores (B,) and maps (B, h, w) of prepared images, uint8 (B, 3, h, w).

        They are those of a run's test phase: the same operations in the same order.
        """
        return self.apply({"image": images})

    def apply(self, batch: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return scores (B,) and maps (B, h, w) of a batch: of images uint8, or of one picture's tiles."""
        dtype = WHOLE.get(self.precision, torch.float32)  # with autocast, images are float32
        with self._turn, torch.inference_mode(), self._autocast():
            batch = {name: move(value, self.device) for name, value in batch.items()}
            if "image" in batch:
                # Laid out as a data set's batches are: channels last.
                laid = batch["image"].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
                batch["image"] = laid.float().div_(255).to(dtype)
            found = self.network.judge(batch)
            maps = found.anomaly_map[:, 0].float().cpu().numpy()
            return found.image_score.double().cpu().numpy(), maps

    def _autocast(self) -> Any:
        if self.precision not in AUTOCAST:
            return nullcontext()
        return torch.autocast(self.device.type, AUTOCAST[self.precision])


def move(value: Tensor | Tiles, device: torch.device) -> Tensor | Tiles:
    """Return what a batch holds on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    roi = None if value.roi is None else value.roi.to(device)
    return value._replace(images=value.images.to(device), roi=roi)


def load(
    path: str | os.PathLike,
    device: str = "auto",
    weights: str | None = None,
    plugins: Sequence[str] = (),
    batch_size: int = 16,
    with_decision: bool = True,
    fold: bool = False,
    roi: str | os.PathLike | None = None,
) -> Detector:
    """Load a trained detector from `path`, a run's folder or a checkpoint. Returns it, on its device.

    `device` auto takes an accelerator where there is one. `weights` is a file of the teacher's, where it lies elsewhere
    than in training; a checkpoint that holds its teacher needs none. `plugins` names modules of detectors of one's own
    that may be imported: no other code of a checkpoint's is run. `batch_size` is how many pictures of an iterable are
    judged at once. `with_decision` False leaves stored thresholds unread. `fold` works batch norm into convolutions:
    quicker for single pictures, and scores are then a test phase's but for rounding (1e-6). `roi` is the folder of the
    pictures' regions of interest, for a detector trained with one of a folder each. Nothing is written. Raises
    `UserError`: no checkpoint, not kdad's, another teacher, no such device.

    Examples:
        >>> detector = kdad.load("run", device="cpu")
        >>> detector.image_size, detector.decision.rule
        (64, 'quantile')
    """
    limit_threads()
    keep_float32()
    found = find_checkpoint(Path(path))
    network, decision, config = build_trained(found, weights, plugins, with_decision)
    lay_out(network)
    if fold:
        from kdad.inference.fold import fold_batch_norms  # after kdad.models, which imports timm alone

        fold_batch_norms(network, torch.rand(2, 3, *as_pair(network.image_size)))
    with explain_damage(found):
        region = restore_roi(network.provenance.get("roi"), roi)
        tiling = read_tiling(image_size=network.image_size, **config["tiling"])
        precision = str(config["trainer"].get("precision") or "32-true")
        detector = Detector(network, decision, precision, batch_size, tiling, region)
        detector.setting = read_setting(config["model"], network.scoring)
    return detector.to(find_device() if device == "auto" else device)


def find_device() -> str:
    """Return the accelerator that torch finds, else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
