"""Files of tensors: damage is seen, code is not run, a bomb is not unpacked, and a full disk is called one."""

import errno
import io
import zipfile
from contextlib import contextmanager

import pytest
import torch

from kdad.errors import UserError
from kdad.storage import tensors
from kdad.storage.tensors import read_plain, write_tensors

STATE = {"weight": torch.arange(400.0)}


def read(path):
    return read_plain(path, "ckpt_path", "a checkpoint", "Give another.")


def test_written_and_read_again(tmp_path):
    write_tensors(STATE, tmp_path / "a.ckpt")
    assert torch.equal(read(tmp_path / "a.ckpt")["weight"], STATE["weight"])
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # as torch did before 1.6
    assert torch.equal(read(tmp_path / "old.pth")["weight"], STATE["weight"])


def test_one_bit_of_a_weight(tmp_path):
    """Torch itself would give another number without a word."""
    path = tmp_path / "a.ckpt"
    write_tensors(STATE, path)
    data = bytearray(path.read_bytes())
    data[data.index(STATE["weight"].numpy().tobytes()) + 1002] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path, weights_only=True)["weight"], STATE["weight"])
    with pytest.raises(UserError, match="data/0 is damaged"):
        read(path)


def test_a_bomb(tmp_path):
    """Torch unpacks 100 MB of a file of 100 kB."""
    made, path = io.BytesIO(), tmp_path / "a.ckpt"
    torch.save(STATE, made)
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(100_000_000) if name.endswith("data/0") else old.read(name))
    with pytest.raises(UserError, match="it is compressed"):
        read(path)


def test_a_full_disk_is_called_one(tmp_path, monkeypatch):
    """Torch makes "unexpected pos 128 vs 16" of it, which a user would see with a traceback."""

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def open_full(path, mode):
        yield Full()

    monkeypatch.setattr(tensors, "atomic_write", open_full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_tensors(STATE, tmp_path / "a.ckpt")
    assert caught.value.errno == errno.ENOSPC
