"""What tells that data are the same: digits of names and sizes, as every kdad has had them, and of what files hold."""

import hashlib
import os
from zlib import crc32

import pandas as pd
import pytest

from kdad.data.parts import Parts
from kdad.data.samples import BLOCK, Sample
from kdad.engine.record import is_same_data
from kdad.results.words import list_changed_data


def fingerprint(root, *files):
    return Parts([Sample(file, 0, "good") for file in files], [], [], []).fingerprint(root)


def test_it_begins_with_the_digits_that_runs_of_before_have(tmp_path):
    (tmp_path / "a.png").write_bytes(b"0123456789")
    names, content = fingerprint(tmp_path, tmp_path / "a.png").split("-")
    assert names == hashlib.sha256(b"train 0 a.png  [10]").hexdigest()[:16]
    blocks = [crc32(b"0123456789"), crc32(b"56789"), crc32(b"0123456789")]
    assert content == hashlib.sha256(f"a.png {blocks}".encode()).hexdigest()[:8]


@pytest.mark.parametrize("place", [0, 5 * BLOCK, 10 * BLOCK - 1])
def test_a_byte_at_the_beginning_the_middle_or_the_end_makes_other_data(tmp_path, place):
    file, held = tmp_path / "a.bmp", bytearray(10 * BLOCK)
    file.write_bytes(held)
    os.utime(file, (1e9, 1e9))
    before = fingerprint(tmp_path, file)
    held[place] = 1
    file.write_bytes(held)
    after = fingerprint(tmp_path, file)
    assert before[:16] == after[:16] and before != after
    (tmp_path / "moved").mkdir()
    file.rename(tmp_path / "moved/a.bmp")
    assert fingerprint(tmp_path / "moved", tmp_path / "moved/a.bmp") == after


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("a-1", "a-1", True), ("a-1", "a-2", False), ("a-1", "b-1", False), ("a", "a-1", True), ("a", "b-1", False),
     ("a", "a", True), (None, "a-1", True), ("a-1", None, True), ("", "a-1", False)],
)  # fmt: skip
def test_what_may_be_the_same_data(one, other, same):
    assert is_same_data(one, other) is same
    assert is_same_data(other, one) is same


@pytest.mark.parametrize(
    ("prints", "changed"),
    [(["a", "a-1"], False), (["a-1", "a-2"], True), (["a", "b-1"], True), (["a-1", None], False), (["a-1"], False)],
)
def test_a_mean_over_other_data_is_told_of(prints, changed):
    runs = pd.DataFrame({"data_fingerprint": prints}).assign(
        status="ok", model="rd", dataset="mvtec", settings="", category="grid", split_seed=0
    )
    assert list_changed_data(runs) == ["rd on mvtec grid: the images changed between the runs of this mean."] * changed
