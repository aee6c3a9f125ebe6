"""ShanghaiTech Campus: frames of surveillance videos, with a mask for each frame of the test clips.

Liu, Luo, Lian and Gao, "Future Frame Prediction for Anomaly Detection - A New Baseline", CVPR 2018; the data are
those of Luo, Liu and Gao, ICCV 2017.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from kdad.data import video
from kdad.data.base import AnomalyDataModule
from kdad.data.images import Look, list_images, shrink_image
from kdad.data.intensity import refuse_rule
from kdad.data.place import list_folders
from kdad.data.samples import Sample
from kdad.errors import UserError

EXTRACT = (
    "cd {training} && for v in videos/*.avi; do d=frames/$(basename $v .avi); "
    "mkdir -p $d && ffmpeg -i $v -qmin 1 -q:v 1 -start_number 0 $d/%03d.jpg; done"
)
DECODING = Lock()  # a video is decoded by one thread, in order, while the others wait for its frames


class STC(AnomalyDataModule):
    """ShanghaiTech Campus: of each clip one frame in `every`, from its first on, in training and in test alike.

    A category is a scene with test clips, the first number in the name of a clip, or `all`. Whether a frame is
    anomalous is said by test_frame_mask, never by its pixel mask, of which whatever is not 0 is anomalous. Training
    clips are read from training/videos, where `training/videos/01_001.avi/000005` is the path of a frame, or from
    folders training/frames where there are some. Without a folder test_pixel_mask: image metrics only.
    Raises `UserError` for an `every` below 1.
    """

    layout = (
        "training/videos/<clip>.avi or training/frames/<clip>/*.jpg, testing/frames/<clip>/*.jpg, "
        "testing/test_frame_mask/<clip>.npy (frames,) and testing/test_pixel_mask/<clip>.npy (frames, height, width)"
    )
    obtain = "ShanghaiTech Campus is at https://svip-lab.github.io/dataset/campus_dataset.html"
    default_category = "all"
    mask_kind = "labels"
    counted = "clips"

    def __init__(self, *, every: int = 5, **common: Any) -> None:
        super().__init__(**common)
        if every < 1:
            raise UserError(f"dataset.every={every}: give 1 for all frames, 5 for each fifth, ...")
        refuse_rule(self.rule, self.name)
        self.every = every
        self._frame: dict[Path, int] = {}  # of a test image: its row in the clip's masks
        self._decoded: dict[Path, list[Image.Image]] = {}  # of the last two videos that frames were read from
        self._looks: dict[Path, Look | UserError] = {}  # of videos, that each be read once

    def categories(self) -> list[str]:
        """Return `all` and the scenes that have both training and test clips.

        Raises `UserError` where some training videos have been made into frames and others have not.
        """
        self.check_root()
        clips = self._find_training_clips()
        tested = {_read_scene(clip) for clip in list_folders(self.root / "testing" / "frames")}
        return ["all", *sorted(tested & {_read_scene(clip) for clip in clips})] if clips else []

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Return every `every`-th frame of the training and of the test clips.

        Raises `UserError` where a clip's masks are missing or are not as many as its frames, or PyAV is missing.
        """
        train = [
            Sample(path, 0, "good")
            for clip in self._find_training_clips()
            if self._is_wanted(clip)
            for path in self._list_training_frames(clip)[:: self.every]
        ]
        clips = list_folders(self.root / "testing" / "frames")
        test = [sample for clip in clips if self._is_wanted(clip) for sample in self._read_test_clip(clip)]
        return train, test

    def find_absent_masks(self) -> Path | None:
        folder = self.root / "testing" / "test_pixel_mask"
        return None if folder.is_dir() else folder

    def compare_with_official(self, counts: Mapping[str, int]) -> str:
        """Compare the numbers of clips: how many images there are depends on `every`."""
        parts = {"train": self._find_training_clips(), "test": list_folders(self.root / "testing" / "frames")}
        return super().compare_with_official({part: len(clips) for part, clips in parts.items()})

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self._decoded.clear()

    def read_picture(self, sample: Sample) -> Image.Image:
        """Read a frame; one of a video comes at the detector's size, unless a tile or a region needs its own."""
        if not _is_video(clip := sample.path.parent):
            return super().read_picture(sample)
        with DECODING:
            if clip not in self._decoded:  # images are read in order: where two clips meet, both are at hand
                last = list(self._decoded.items())[-1:]
                whole = self.tiling is not None or self.roi is not None
                keep = Image.Image.copy if whole else partial(shrink_image, size=self.image_size)
                self._decoded = dict(last) | {clip: video.read_frames(clip, self.every, keep)}
            return self._decoded[clip][int(sample.path.name) // self.every]

    def version(self, sample: Sample) -> tuple[int | str, ...]:
        clip = sample.path.parent
        return super().version(sample._replace(path=clip) if _is_video(clip) else sample)

    def look_at(self, sample: Sample) -> Look:
        clip = sample.path.parent
        if not _is_video(clip):
            return super().look_at(sample)
        with DECODING:
            if clip not in self._looks:
                try:
                    self._looks[clip] = video.look_at_video(clip)
                except UserError as error:
                    self._looks[clip] = error
        if isinstance(seen := self._looks[clip], UserError):
            raise seen
        return seen

    def find_copies(self, train: Sequence[Sample], test: Sequence[Sample]) -> list[tuple[Path, Path]]:
        """Find test images that are exact copies of training images, leaving out training frames of videos."""
        return super().find_copies([sample for sample in train if not _is_video(sample.path.parent)], test)

    def read_mask_values(self, sample: Sample) -> np.ndarray:
        return np.array(_map_masks(sample.require_mask())[self._frame[sample.path]])

    def _find_training_clips(self) -> list[Path]:
        """Find the training clips: folders of frames, or videos where there are none.

        Raises `UserError` where some videos have a folder of frames and others have not.
        """
        training = self.root / "training"
        folders = list_folders(training / "frames")
        videos = [path for path in sorted(training.glob("videos/*.avi")) if path.name[0] != "."]
        missing = sorted({path.stem for path in videos} - {folder.name for folder in folders})
        if folders and missing:
            raise UserError(
                f"{training / 'frames'} has no frames of {len(missing)} of the {len(videos)} videos in "
                f"{training / 'videos'}, the first is {missing[0]}. Extract all, or remove {training / 'frames'}: the "
                "videos are read then"
            )
        return folders or videos

    def _list_training_frames(self, clip: Path) -> list[Path]:
        if not _is_video(clip):
            return _sort_frames(list_images(clip))
        if not video.is_available():
            raise UserError(
                f"{clip} is a video, and reading its frames needs PyAV: pip install 'kdad[video]'. Or extract those of "
                f"all videos once: {EXTRACT.format(training=self.root / 'training')}"
            )
        return [clip / f"{i:06d}" for i in range(video.count_frames(clip))]

    def _is_wanted(self, clip: Path) -> bool:
        return self.category in ("all", _read_scene(clip))

    def _read_test_clip(self, clip: Path) -> list[Sample]:
        frames, testing = _sort_frames(list_images(clip)), self.root / "testing"
        labels = _map_masks(testing / "test_frame_mask" / f"{clip.name}.npy")
        _check_shape(labels, (len(frames),), testing / "test_frame_mask" / f"{clip.name}.npy", clip)
        pixels = testing / "test_pixel_mask" / f"{clip.name}.npy"
        if pixels.is_file():
            loaded = _map_masks(pixels)
            _check_shape(loaded, (len(frames), *(*loaded.shape, 0, 0)[1:3]), pixels, clip)
        has_masks = self.find_absent_masks() is None
        samples = []
        for row in range(0, len(frames), self.every):
            self._frame[frames[row]] = row
            anomalous = bool(labels[row])
            mask = pixels if anomalous and has_masks else None
            samples.append(Sample(frames[row], int(anomalous), "event" if anomalous else "good", mask))
        return samples


def _read_scene(clip: Path) -> str:
    return clip.name.split("_")[0]


def _is_video(clip: Path) -> bool:
    return clip.suffix == ".avi"


def _sort_frames(frames: list[Path]) -> list[Path]:
    """Sort frames by number: in a clip of more than a thousand, 1000.jpg follows 999.jpg."""
    return sorted(frames, key=lambda path: (len(path.stem), path.stem))


def _map_masks(path: Path) -> np.ndarray:
    """Map a file of masks into memory: a clip's masks are large and wanted one by one.

    Raises `UserError` where it cannot be read.
    """
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
