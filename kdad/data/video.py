"""Frames of videos, read with PyAV: the extra `video`. They are counted, since not every file has times for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from kdad.data.images import Look, square
from kdad.errors import UserError


def available() -> bool:
    """Whether PyAV is there, without which nothing below works."""
    return find_spec("av") is not None


def n_frames(path: Path) -> int:
    """As the header says or, where it does not, as many as there are in the file. Raises UserError on a damaged one."""
    with _opened(path) as container:
        return container.streams.video[0].frames or _n_packets(container)


def look(path: Path) -> Look:
    """Of a frame. Raises UserError where the file is damaged, or shorter than its header says; decodes nothing."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        if (n := _n_packets(container)) < stream.frames:
            raise UserError(_too_short(path, n, stream.frames))
        return Look((stream.codec_context.width, stream.codec_context.height), "RGB")


def frames(path: Path, every: int, size: int) -> list[Tensor]:
    """Each `every`-th from the first on, uint8 (3,size,size). Raises UserError unless there are all of `n_frames`."""
    wanted = range(0, n_frames(path), every)
    with _opened(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        to_rgb = _rgb()
        found = [square(to_rgb(f), size) for i, f in enumerate(container.decode(video=0)) if i in wanted]
    if len(found) < len(wanted):
        raise UserError(_too_short(path, wanted[len(found)], wanted.stop))
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import av

    av.logging.set_level(av.logging.PANIC)  # what is wrong with a file is raised
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"cannot read the video {path}: it has no pictures")
            yield container
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"cannot read the video {path}: {error.strerror}. Get the file again") from error


def _rgb() -> Callable[[Any], Image.Image]:
    """Turns a frame into an image, with one converter for all: a frame's own starts threads for each anew."""
    from av.video.reformatter import VideoReformatter

    converter = VideoReformatter()
    return lambda frame: converter.reformat(frame, format="rgb24", threads=1).to_image()


def _n_packets(container: Any) -> int:
    """Each is a frame; the last is empty and stands for the end of the file."""
    return sum(packet.size > 0 for packet in container.demux(video=0))


def _too_short(path: Path, n: int, expected: int) -> str:
    return f"cannot read the video {path} to its end: frame {n} of {expected} is missing. Get the file again"
