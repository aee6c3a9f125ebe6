"""Frames of videos, read with PyAV: the extra `video`. They are counted, since not every file has times for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from kdad.data.images import Look
from kdad.errors import UserError


def is_available() -> bool:
    """Return whether PyAV is there, without which nothing below works."""
    return find_spec("av") is not None


def count_frames(path: Path) -> int:
    """Return the number of frames that a video's header gives or, where it gives none, that its file holds.

    Raises `UserError` where the file is damaged.
    """
    with _open_video(path) as container:
        return container.streams.video[0].frames or _count_packets(container)


def look_at_video(path: Path) -> Look:
    """Find the size and the mode of a video's frames, without decoding any.

    Raises `UserError` where the file is damaged, or shorter than its header says.
    """
    with _open_video(path) as container:
        stream = container.streams.video[0]
        if (n := _count_packets(container)) < stream.frames:
            raise UserError(_describe_short(path, n, stream.frames))
        return Look((stream.codec_context.width, stream.codec_context.height), "RGB")


def read_frames(path: Path, every: int, keep: Callable[[Image.Image], Image.Image]) -> list[Image.Image]:
    """Read each `every`-th frame of a video, from the first on. Returns what `keep` makes of each, an RGB image.

    Raises `UserError` where the file is damaged, or ends before the last of `count_frames`.
    """
    wanted = range(0, count_frames(path), every)
    with _open_video(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        convert = _make_converter()
        found = [keep(convert(f)) for i, f in enumerate(container.decode(video=0)) if i in wanted]
    if len(found) < len(wanted):
        raise UserError(_describe_short(path, wanted[len(found)], wanted.stop))
    return found


@contextmanager
def _open_video(path: Path) -> Iterator[Any]:
    import av

    av.logging.set_level(av.logging.PANIC)  # what is wrong with a file is raised
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"cannot read the video {path}: it has no pictures")
            yield container
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"cannot read the video {path}: {error.strerror}. Get the file again") from error


def _make_converter() -> Callable[[Any], Image.Image]:
    """Make a function that turns a frame into an RGB image; a frame's own method would start threads for each anew."""
    from av.video.reformatter import VideoReformatter

    converter = VideoReformatter()
    return lambda frame: converter.reformat(frame, format="rgb24", threads=1).to_image()


def _count_packets(container: Any) -> int:
    """Count the packets that hold a frame; the last is empty and stands for the end of the file."""
    return sum(packet.size > 0 for packet in container.demux(video=0))


def _describe_short(path: Path, n: int, expected: int) -> str:
    return f"cannot read the video {path} to its end: frame {n} of {expected} is missing. Get the file again"
