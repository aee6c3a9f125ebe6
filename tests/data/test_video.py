"""Frames of videos, and ShanghaiTech Campus as it is downloaded: training clips as videos."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdad.data import STC, check, video
from kdad.errors import UserError
from tests.layouts import N_FRAMES, brightness, stc_with_videos, write_video

av = pytest.importorskip("av", reason="needs kdad[video]")


@pytest.mark.parametrize("every", [1, 5])
def test_frames_are_those_that_were_written_in_their_order(tmp_path, every):
    path = write_video(tmp_path / "a.avi")
    assert video.count_frames(path) == N_FRAMES and video.look_at_video(path) == ((96, 64), "RGB")
    found = video.read_frames(path, every, lambda frame: frame.resize((16, 16)))
    assert [image.size for image in found] == [(16, 16)] * len(range(0, N_FRAMES, every))
    means = [np.asarray(image).mean() for image in found]
    assert means == pytest.approx([brightness(i) for i in range(0, N_FRAMES, every)], abs=4)  # neighbours differ by 15


def test_a_header_without_the_number_of_frames(tmp_path):
    path = write_video(tmp_path / "a.mkv")  # Matroska's has none
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert video.count_frames(path) == len(video.read_frames(path, 1, Image.Image.copy)) == N_FRAMES


@pytest.mark.parametrize(("content", "message"), [(b"", "cannot read the video"), (b"no video" * 99, "Invalid data")])
def test_a_damaged_video_is_named(tmp_path, content, message):
    path = tmp_path / "01_001.avi"
    path.write_bytes(content)
    for read in (video.count_frames, video.look_at_video, lambda path: video.read_frames(path, 1, Image.Image.copy)):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_video_cut_short_is_named(tmp_path):
    path = write_video(tmp_path / "01_001.avi")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=f"{path} to its end: frame 1?[0-9] of {N_FRAMES} is missing"):
        video.read_frames(path, 1, Image.Image.copy)


# ShanghaiTech Campus


@pytest.fixture
def root(tmp_path) -> Path:
    return stc_with_videos(tmp_path / "stc")


@pytest.fixture
def build(root, options):
    return lambda **changes: STC(**options(root, **({"image_size": 16} | changes)))


def test_training_videos_are_read_as_they_are(build, root):
    data = build(val_fraction=0.25)
    assert data.categories() == ["all", "01", "12"]
    data.check()
    paths = [s.path for s in data.train_samples + data.val_samples]
    frames = sorted(path.relative_to(root / "training/videos").as_posix() for path in paths)
    clips = {"01_001": (0, 5, 10), "01_002": (0,), "12_001": (0, 5, 10), "13_001": (0, 5, 10)}
    assert frames == [f"{clip}.avi/{i:06d}" for clip, numbers in clips.items() for i in numbers]
    assert data.facts["n_val"] == 2 and data.facts["n_duplicates"] == 0
    data.setup()
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    means = sorted(255 * image.mean().item() for batch in batches for image in batch["image"])
    wanted = sorted(brightness(i) for numbers in clips.values() for i in numbers)
    assert means == pytest.approx(wanted, abs=4)


def test_of_a_scene_only_its_videos(build):
    data = build(category="12", every=1)
    data.check()
    assert {s.path.parent.name for s in data.train_samples} == {"12_001.avi"} and len(data.train_samples) == N_FRAMES


def test_a_changed_video_is_known_to_the_cache(build, root):
    data = build(category="12")
    data.check()
    sample = data.train_samples[0]
    before = data.version(sample)
    write_video(root / "training/videos/12_001.avi", N_FRAMES + 1)
    assert data.version(sample) != before


def test_without_pyav_it_says_what_to_do(build, root, monkeypatch):
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        build().check()
    message = str(caught.value)
    assert str(root / "training/videos/01_001.avi") in message and "pip install 'kdad[video]'" in message
    assert f"cd {root / 'training'} && for v in videos/*.avi" in message and "ffmpeg -i" in message


def test_frames_are_taken_where_there_are_some(build, root):
    for clip in ("01_001", "01_002", "12_001", "13_001"):
        shutil.copytree(root / "testing/frames/01_0014", root / "training/frames" / clip)
    data = build()
    data.check()
    assert {s.path.parent.parent.name for s in data.train_samples} == {"frames"}
    shutil.rmtree(root / "training/frames/12_001")
    with pytest.raises(UserError, match="no frames of 1 of the 4 videos in .*, the first is 12_001"):
        build().check()


def test_check_reports_a_damaged_video_once(root, monkeypatch, capsys):
    path = root / "training/videos/12_001.avi"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"movi") + 1000])  # the header is whole, some frames are missing
    monkeypatch.setattr(sys, "argv", ["check", "dataset=stc", f"dataset.root={root}"])
    with pytest.raises(SystemExit) as caught:
        check.main()
    _, errors = capsys.readouterr()
    assert caught.value.code == 2 and errors.count(str(path)) == 1 and "1 problem with stc" in errors
