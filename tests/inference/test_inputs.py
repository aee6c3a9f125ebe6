"""Which files `input=` stands for."""

import os
import threading
from pathlib import Path

import pytest

from kdad.errors import UserError
from kdad.inference import inputs
from kdad.inference.inputs import Inputs
from kdad.predict.folder import name_picture


@pytest.fixture
def parts(tmp_path):
    for name in ("parts/b.png", "parts/a.JPG", "parts/deep/c.tif", "parts/.hidden.png", "parts/notes.txt", "parts/d.heic",
                 "parts/.git/e.png", "parts/out/f.png", "others/a.JPG"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(given, parts, lines=None):
    found = Inputs([g if g == "-" else str(parts / g) for g in given], parts / "parts/out", lines)
    return [item.name for item in found.list_files()], found


def test_a_folder_with_all_below_but_the_results(parts):
    listed, found = names(["parts"], parts)
    assert listed == ["a.JPG", "b.png", "deep/c.tif"] and found.left_out == {".heic": 1}


def test_files_and_patterns(parts):
    assert names(["parts/b.png"], parts)[0] == ["b.png"]
    assert names(["parts/notes.txt"], parts)[0] == ["notes.txt"]  # asked for by name: read, or said why not
    assert names(["parts/*.png"], parts)[0] == ["b.png"]
    assert names(["parts/**/*.tif"], parts)[0] == ["deep/c.tif"]
    assert names(["parts/**/*.png"], parts)[0] == ["b.png"] and names(["parts/.git/*.png"], parts)[0] == ["e.png"]
    assert names(["*/a.JPG"], parts)[0] == ["others/a.JPG", "parts/a.JPG"]


def test_links_that_lead_in_a_circle_are_walked_once(parts):
    """Into the folder itself, to themselves, and to each other: found once or told of as unreadable, by any name."""
    (parts / "parts/again").symlink_to(parts / "parts", target_is_directory=True)
    for name, target in (("self.png", "self.png"), ("x.png", "y.png"), ("y.png", "x.png"), ("circle", "circle")):
        (parts / "parts" / name).symlink_to(target)
    circles = ["self.png", "x.png", "y.png"]
    assert names(["parts"], parts)[0] == ["a.JPG", "b.png", *circles, "deep/c.tif"]
    assert names(["parts/*"], parts)[0] == ["a.JPG", "b.png", *circles]
    assert names(["**/sel*.png"], parts)[0] == ["parts/self.png"]


def test_a_pipe_with_the_name_of_a_picture_is_none(parts):
    os.mkfifo(parts / "parts/pipe.png")
    for given in ("parts", "parts/*.png"):
        assert "pipe.png" not in names([given], parts)[0]
    with pytest.raises(UserError, match=r"pipe\.png: no picture there"):
        names(["parts/pipe.png"], parts)


def test_several_do_not_meet(parts):
    assert names(["parts", "others"], parts)[0] == ["parts/a.JPG", "parts/b.png", "parts/deep/c.tif", "others/a.JPG"]
    (parts / "more/parts").mkdir(parents=True)
    (parts / "more/parts/b.png").write_bytes(b"")
    listed = names(["parts/b.png", "more/parts"], parts)[0]
    assert len(set(listed)) == 2 and {Path(name).name for name in listed} == {"b.png"}
    assert names(["parts/b.png", "parts/*.png"], parts)[0] == ["b.png"]  # once


def test_standard_input(parts):
    listed, _ = names(["-"], parts, iter([f"{parts}/parts/b.png\n", "\n", f"{parts}/gone.png\r\n"]))
    assert [Path("/") / name for name in listed] == [parts / "parts/b.png", parts / "gone.png"]


@pytest.mark.parametrize(("given", "said"), [("gone", "no such file or folder"), ("parts/*.gif", "no picture there")])
def test_names_that_stand_for_nothing(parts, given, said):
    with pytest.raises(UserError, match=said):
        names([given], parts)
    with pytest.raises(UserError, match="input=<file, folder or pattern> is needed"):
        Inputs([], parts)


def test_files_that_arrive(parts, monkeypatch):
    """A file counts once its size stands still; the watch ends after a time without one."""
    monkeypatch.setattr(inputs, "POLL", 0.05)
    found = []

    def arrive():
        with (parts / "others/new.png").open("wb") as file:
            for _ in range(4):
                file.write(b"x" * 10)
                file.flush()
                threading.Event().wait(0.03)

    thread = threading.Timer(0.2, arrive)
    thread.start()
    for item in Inputs([str(parts / "others")], parts / "out").watch(1.0):
        if item:
            found.append((item.name, item.path.stat().st_size))
    thread.join()
    assert found == [("a.JPG", 0), ("new.png", 40)]


def test_pictures_have_names_of_their_own():
    given = ["a.png", "a.jpg", "a.jpg.png", "a.jpg.png.png", "a.PNG", "deep/a.png", "a", "a.tiff", "a.tiff.png"]
    for suffix in (".png", ".npy", ".tiff"):
        made = [name_picture(name, suffix) for name in given]
        assert len(set(made)) == len(made) and all(name.endswith(suffix) for name in made)
