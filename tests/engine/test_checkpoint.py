"""What made a checkpoint is read once, for as long as its file is the same."""

import os
import shutil
from pathlib import Path

import pytest

from kdad.engine import checkpoint
from kdad.engine.checkpoint import Checkpoint
from kdad.errors import UserError

OLD = Path(__file__).parents[1] / "version_0_1/runs/stpm/checkpoints/tested.ckpt"


def test_the_origin_is_read_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    path = shutil.copy(OLD, tmp_path / "tested.ckpt")
    read, seen = checkpoint.read_checkpoint, []
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda path: seen.append(path) or read(path))
    first, again, whole = Checkpoint.load_origin(path), Checkpoint.load_origin(str(path)), Checkpoint.load(path)
    assert seen == [path, path]  # the origin, and the whole
    for found in (first, again):
        assert "state_dict" not in found.content and found.path == whole.path
        assert (found.overrides, found.config, found.epochs) == (whole.overrides, whole.config, whole.epochs)
    os.utime(path, ns=(1, 1))
    Checkpoint.load_origin(path)
    assert len(seen) == 3
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        Checkpoint.load_origin(path)


def test_a_configuration_that_does_not_resolve_is_refused_with_the_file(tmp_path):
    content = {"kdad": {"config": {"dataset": {"category": "${category}"}}}}  # and no category
    with pytest.raises(UserError, match=r"mine\.ckpt: its configuration cannot be read: .*'category' not found"):
        Checkpoint(tmp_path / "mine.ckpt", content).config


def test_a_checkpoints_command_line_says_nothing_of_where_to_write():
    """It is somebody else's, where a checkpoint was given away."""
    kept = ["model=rd", "image_size=64", "dataset.root=/there", "cache.storage=disk"]
    written = ["cache.folder=/somewhere", "+cache.folder=/somewhere", "dataset.download=true"]
    found = Checkpoint(Path("a.ckpt"), {"kdad": {"overrides": [*kept, *written]}, "epoch": 0})
    assert found.add_to([]) == kept
