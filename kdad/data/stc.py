"""ShanghaiTech Campus: frames of surveillance videos, with a mask for each frame of the test clips.

Liu, Luo, Lian and Gao, "Future Frame Prediction for Anomaly Detection - A New Baseline", CVPR 2018; the data are
those of Luo, Liu and Gao, ICCV 2017.
"""

from pathlib import Path
from typing import Any

import numpy as np

from kdad.data.base import AnomalyDataModule
from kdad.data.images import image_files, visible_folders
from kdad.data.samples import Sample
from kdad.errors import UserError

EXTRACT = (
    "cd {root}/training && for v in videos/*.avi; do d=frames/$(basename $v .avi); "
    "mkdir -p $d && ffmpeg -i $v -q:v 1 -start_number 0 $d/%03d.jpg; done"
)


class STC(AnomalyDataModule):
    """Every `every`-th frame of each clip, from its first on, in training and in test alike.

    A category is a scene, the first number in the name of a clip, or `all`. Whether a frame is anomalous is said by
    test_frame_mask, never by its pixel mask, of which whatever is not 0 is anomalous. Training images come as videos:
    their frames are to be extracted into training/frames first. Without a folder test_pixel_mask: image metrics only.
    """

    layout = (
        "training/frames/<clip>/*.jpg, testing/frames/<clip>/*.jpg, testing/test_frame_mask/<clip>.npy (frames,) "
        "and testing/test_pixel_mask/<clip>.npy (frames, height, width)"
    )
    obtain = "ShanghaiTech Campus is at https://svip-lab.github.io/dataset/campus_dataset.html"
    default_category = "all"
    mask_kind = "labels"

    def __init__(self, *, every: int = 5, **common: Any) -> None:
        super().__init__(**common)
        if every < 1:
            raise UserError(f"dataset.every={every}: give 1 for all frames, 5 for each fifth, ...")
        self.every = every
        self._frame: dict[Path, int] = {}  # of a test image: its row in the clip's masks

    def categories(self) -> list[str]:
        """Raises UserError where training videos have not been made into frames."""
        self.check_root()
        clips = visible_folders(self.root / "training" / "frames")
        if not clips and (self.root / "training" / "videos").is_dir():
            raise UserError(
                f"{self.root / 'training' / 'videos'} holds videos, and {self.root / 'training' / 'frames'} no frames "
                f"of them. Extract them once: {EXTRACT.format(root=self.root)}"
            )
        return ["all", *sorted({_scene(clip) for clip in clips})] if clips else []

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Raises UserError where a clip's masks are missing or are not as many as its frames."""
        train = [
            Sample(path, 0, "good")
            for clip in self._clips("training")
            for path in image_files(clip)[:: self.every]
        ]  # fmt: skip
        test = [sample for clip in self._clips("testing") for sample in self._test_clip(clip)]
        return train, test

    def mask_values(self, sample: Sample) -> np.ndarray:
        return np.array(_load(sample.mask)[self._frame[sample.path]])

    def _clips(self, part: str) -> list[Path]:
        clips = visible_folders(self.root / part / "frames")
        return [clip for clip in clips if self.category in ("all", _scene(clip))]

    def _test_clip(self, clip: Path) -> list[Sample]:
        frames, testing = image_files(clip), self.root / "testing"
        labels = _load(testing / "test_frame_mask" / f"{clip.name}.npy")
        _check_shape(labels, (len(frames),), testing / "test_frame_mask" / f"{clip.name}.npy", clip)
        pixels = testing / "test_pixel_mask" / f"{clip.name}.npy"
        if pixels.is_file():
            loaded = _load(pixels)
            _check_shape(loaded, (len(frames), *(*loaded.shape, 0, 0)[1:3]), pixels, clip)
        has_masks = pixels.parent.is_dir()
        samples = []
        for row in range(0, len(frames), self.every):
            self._frame[frames[row]] = row
            anomalous = bool(labels[row])
            mask = pixels if anomalous and has_masks else None
            samples.append(Sample(frames[row], int(anomalous), "event" if anomalous else "good", mask))
        return samples


def _scene(clip: Path) -> str:
    return clip.name.split("_")[0]


def _load(path: Path) -> np.ndarray:
    """Mapped, not read: a clip's masks are large and wanted one by one. Raises UserError where that is impossible."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of a damaged file NumPy raises nearly anything
        raise UserError(f"cannot read the masks {path}: {error}") from error


def _check_shape(masks: np.ndarray, shape: tuple[int, ...], path: Path, clip: Path) -> None:
    if masks.shape != shape:
        raise UserError(
            f"{path} has the shape {masks.shape}; the {shape[0]} frames in {clip} need one entry each: {len(shape)} "
            f"dimension{'s' * (len(shape) > 1)}, the first of {shape[0]}"
        )
