"""Files are whole or absent."""

import pytest

from kdad.storage.atomic import atomic_write, build_folder


def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "results.json"
    with atomic_write(path) as file:
        file.write("first")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write("half of the sec")
        assert path.read_text() == "first"  # not before the end
        1 / 0
    assert path.read_text() == "first" and [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_bytes_and_permissions(tmp_path):
    with atomic_write(tmp_path / "a.bin", "wb") as file:
        file.write(b"\x00\n\xff")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\n\xff"
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_appears_whole(tmp_path, empty):
    path = tmp_path / "deep" / "set"
    with pytest.raises(ZeroDivisionError), build_folder(path) as build:
        (build / "a").touch()
        1 / 0
    assert not list(path.parent.iterdir())
    if empty:
        path.mkdir()
    with build_folder(path) as build:
        (build / "a").touch()
        assert not path.is_dir() or not list(path.iterdir())
    (tmp_path / "made").mkdir()
    assert [p.name for p in path.iterdir()] == ["a"] and path.stat().st_mode == (tmp_path / "made").stat().st_mode


def test_of_two_folders_the_first_stays(tmp_path):
    path = tmp_path / "set"
    with build_folder(path) as slower:
        (slower / "a").touch()
        with build_folder(path) as faster:
            (faster / "b").touch()
    assert [p.name for p in path.iterdir()] == ["b"] and [p.name for p in tmp_path.iterdir()] == ["set"]
