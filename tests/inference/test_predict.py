"""`kdad predict` as it is used: what it writes, what it skips, and what it refuses."""

import csv
import io
import json
import re
import shutil
import sys
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

import kdad
from tests.inference.trained import train
from tests.processes import start_module


@pytest.fixture(scope="module")
def rd(tmp_path_factory):
    return train("rd", tmp_path_factory.mktemp("rd"))


@pytest.fixture
def predict(rd, command_line, tmp_path):
    """predict("key=value", ...) -> exit status; into tmp_path/out unless told otherwise."""

    def call(*arguments, into="out"):
        return command_line("predict", f"ckpt_path={rd.folder}", f"hydra.run.dir={tmp_path / into}", *arguments)

    return call


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_written(rd, predict, tmp_path):
    shutil.copytree(rd.pictures, tmp_path / "parts")
    Image.fromarray(np.full((50, 81), 99, np.uint8)).save(tmp_path / "parts/square/grey.jpg")
    assert predict("input=parts", "maps=tiff16", "masks=true") == 0
    out, detector = tmp_path / "out", kdad.load(rd.folder)
    rows = table(out / "scores.csv")
    assert list(rows[0]) == ["path", "score", "normalised_score", "decision", "area"] and len(rows) == 13
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    tested = {row["path"].rsplit("pictures/")[1]: row for row in table(rd.folder / "scores.csv")}
    for row in rows:
        name = row["path"].rsplit("parts/")[1]
        result = detector(row["path"])
        assert float(row["score"]) == pytest.approx(result.score, rel=1e-6)
        assert row["decision"] == str(int(result.is_anomalous)) and float(row["area"]) == pytest.approx(result.area)
        if name in tested:
            assert float(row["score"]) == pytest.approx(float(tested[name]["score"]), rel=1e-6)
        stem = name if name.endswith(".png") else name + ".png"
        assert Image.open(out / "overlays" / stem).size == result.image.size
        mask = np.asarray(Image.open(out / "masks" / stem))
        assert mask.shape == result.image.size[::-1] and np.array_equal(mask > 0, result.mask)
        found = tifffile.imread(out / "maps" / (name + ".tiff"))
        assert found.dtype == np.float16 and np.allclose(found, result.anomaly_map, rtol=2e-3)
    assert table(out / "unreadable.csv") == []


def test_overlays_of_what_is_anomalous_alone_and_maps_in_full(rd, predict, tmp_path):
    assert predict(f"input={rd.pictures}", "overlays=anomalous", "maps=npy") == 0
    rows = table(tmp_path / "out/scores.csv")
    drawn = {str(path.relative_to(tmp_path / "out/overlays")) for path in (tmp_path / "out/overlays").rglob("*.png")}
    assert drawn == {row["path"].rsplit("pictures/")[1] for row in rows if row["decision"] == "1"} != set()
    assert len(drawn) < len(rows)
    first = np.load(tmp_path / "out/maps" / (rows[0]["path"].rsplit("pictures/")[1] + ".npy"))
    assert first.dtype == np.float32 and first.shape == (70, 90)


def test_files_that_cannot_be_read(predict, rd, tmp_path, capsys):
    shutil.copytree(rd.pictures / "normal", tmp_path / "parts")
    (tmp_path / "parts/3.png").write_bytes(b"no picture")
    (tmp_path / "parts/9.png").write_bytes((tmp_path / "parts/8.png").read_bytes()[:200])
    assert predict("input=parts") == 3
    bad = table(tmp_path / "out/unreadable.csv")
    assert [row["path"][-5:] for row in bad] == ["3.png", "9.png"] and len(table(tmp_path / "out/scores.csv")) == 8
    assert "2 files cannot be read" in capsys.readouterr().out
    assert predict("input=parts", "strict=true", into="strict") == 2
    assert "cannot read image" in capsys.readouterr().err
    shutil.copy(rd.pictures / "normal/3.png", tmp_path / "parts/3.png")
    shutil.copy(rd.pictures / "normal/9.png", tmp_path / "parts/9.png")
    assert predict("input=parts", "skip_done=true") == 0  # mended, so judged now
    assert len(table(tmp_path / "out/scores.csv")) == 10 and table(tmp_path / "out/unreadable.csv") == []


def test_an_interrupted_call_goes_on_where_it_was(rd, predict, tmp_path, capsys):
    """Killed in the middle: rows are whole, nothing is judged twice, and a changed file is judged anew."""
    parts = tmp_path / "parts"
    parts.mkdir()
    for i in range(150):
        shutil.copy(rd.pictures / f"normal/{i % 10}.png", parts / f"{i:03}.png")
    arguments = [f"ckpt_path={rd.folder}", f"input={parts}", f"hydra.run.dir={tmp_path / 'out'}", "batch_size=2"]
    process = start_module("kdad.predict", arguments, tmp_path)
    journal = tmp_path / "out/.judged"
    while process.is_alive() and (not journal.exists() or journal.read_text().count("\n") < 20):
        time.sleep(0.01)
    process.kill()
    process.join()
    judged = journal.read_text().count("\n") - 1
    assert 15 < judged < 150, "killed too late"
    with journal.open("a") as file:
        file.write('{"path": "cut')
    shutil.copy(rd.pictures / "square/0.png", parts / "000.png")
    assert predict(f"input={parts}", "batch_size=2") == 2  # not without being asked
    assert "skip_done=true goes on" in capsys.readouterr().err
    assert predict(f"input={parts}", "batch_size=2", "skip_done=true") == 0
    before = int(re.search(r"(\d+) judged before", capsys.readouterr().out)[1])
    assert judged - 20 <= before < judged  # but the changed one, and those whose picture was not drawn yet
    rows = table(tmp_path / "out/scores.csv")
    assert [row["path"] for row in rows] == [str(path) for path in sorted(parts.iterdir())]
    scores = [f"{float(row['score']):.4f}" for row in rows]  # a batch's size moves the last digit
    assert len(set(scores)) == 11 and scores[0] != scores[10] == scores[20]
    assert len(list((tmp_path / "out/overlays").iterdir())) == 150


def test_standard_input_and_lists(rd, predict, tmp_path, monkeypatch):
    paths = [rd.pictures / "normal/4.png", rd.pictures / "square/1.png"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{path}\n" for path in paths)))
    assert predict("input=-", into="in") == 0
    assert [row["path"] for row in table(tmp_path / "in/scores.csv")] == [str(path) for path in paths]
    assert predict(f"input=[{paths[1]},{rd.pictures / 'normal'}]") == 0
    assert len(table(tmp_path / "out/scores.csv")) == 11
    assert predict(f'input="{rd.pictures}/*/1.png"', into="glob") == 0
    assert len(table(tmp_path / "glob/scores.csv")) == 2


def test_files_that_arrive_are_judged(rd, predict, tmp_path):
    (tmp_path / "parts").mkdir()
    shutil.copy(rd.pictures / "normal/0.png", tmp_path / "parts/first.png")
    arguments = [f"ckpt_path={rd.folder}", "input=parts", "hydra.run.dir=parts/out", "watch=true", "watch_seconds=4"]
    process = start_module("kdad.predict", arguments, tmp_path)
    journal = tmp_path / "parts/out/.judged"
    while process.is_alive() and (not journal.exists() or journal.read_text().count("\n") < 2):
        time.sleep(0.05)
    shutil.copy(rd.pictures / "square/0.png", tmp_path / "parts/second.png")
    process.join(60)
    assert process.exitcode == 0
    assert [row["path"][-10:] for row in table(tmp_path / "parts/out/scores.csv")] == ["/first.png", "second.png"]


def test_what_is_refused(rd, predict, command_line, tmp_path, capsys):
    def refused(*arguments, into="out"):
        assert predict(*arguments, into=into) == 2
        return capsys.readouterr().err

    assert "input=<file, folder or pattern> is needed" in refused()
    assert "no such file or folder" in refused("input=nowhere")
    assert "overlays=some: give one of all, anomalous, none" in refused(f"input={rd.pictures}", "overlays=some")
    assert "maps=jpg: give one of none, npy, tiff16" in refused(f"input={rd.pictures}", "maps=jpg")
    assert "inputs: no such key. Nearest: input" in refused("+inputs=x", f"input={rd.pictures}")
    assert "device=nowhere" in refused(f"input={rd.pictures}", "device=nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/scores.csv").write_text("my own")
    assert "was not written by kdad" in refused(f"input={rd.pictures}", into="mine")
    assert (tmp_path / "mine/scores.csv").read_text() == "my own"
    assert command_line("predict", f"ckpt_path={rd.folder}", f"input={rd.pictures}", f"hydra.run.dir={rd.folder}") == 2
    assert "is a run's folder" in capsys.readouterr().err
    assert command_line("predict", f"input={rd.pictures}") == 2 and "is needed" in capsys.readouterr().err


def test_thresholds_of_pictures_of_ones_own(rd, command_line, predict, tmp_path, capsys):
    output = tmp_path / "calibrated.ckpt"
    arguments = (f"ckpt_path={rd.folder}", f"normal={rd.pictures / 'normal'}", f"output={output}")
    assert command_line("calibrate", *arguments, f"anomalous={rd.pictures / 'square'}", "false_alarms=0.2") == 0
    said = capsys.readouterr().out
    assert "of 10 images, normal images that were given to kdad calibrate" in said and "Of the 2 anomalous" in said
    before, after = kdad.load(rd.folder), kdad.load(output)
    scores = sorted(before(path).score for path in (rd.pictures / "normal").iterdir())
    assert after.decision.image_threshold == scores[8]  # rank ceil(11 * 0.8) = 9
    assert after.decision.source == "given" and not after.decision.uses_anomalous
    path = rd.pictures / "square/0.png"
    assert after(path).score == before(path).score
    assert command_line("calibrate", *arguments) == 2 and "is there already" in capsys.readouterr().err
    assert command_line("calibrate", *arguments, "overwrite=true", "rule=f1") == 2
    assert "anomalous=<folder> is needed" in capsys.readouterr().err
    more = ("overwrite=true", "rule=f1", f"anomalous={rd.pictures / 'square'}")
    assert command_line("calibrate", *arguments, *more) == 0 and kdad.load(output).decision.uses_anomalous
    assert command_line("calibrate", *arguments, "overwrite=true", "rule=most") == 2
    assert (
        list(tmp_path.glob("outputs")) == [] and json.loads((rd.folder / "results.json").read_text())["status"] == "ok"
    )
    assert command_line("evaluate", f"ckpt_path={output}", f"hydra.run.dir={tmp_path / 'again'}") == 0
    assert json.loads((tmp_path / "again/results.json").read_text())["decision_source"] == "given"


def test_pictures_that_may_not_hold_what_was_meant_are_told(rd, predict, tmp_path, capsys):
    (tmp_path / "parts").mkdir()
    values = np.random.default_rng(0).integers(0, 4096, (40, 50), np.uint16)
    Image.fromarray(values).save(tmp_path / "parts/deep.png")
    Image.fromarray(values.astype(np.uint8)).save(
        tmp_path / "parts/p.tif", save_all=True, append_images=[Image.new("L", (9, 9))]
    )
    (tmp_path / "parts/picture").write_bytes(b"x")
    assert predict(f"ckpt_path={rd.folder}", f"input={tmp_path / 'parts'}", f"hydra.run.dir={tmp_path / 'out'}") == 0
    said = capsys.readouterr().out
    for part in ("as of 12-bit", "deep.png", "1 files hold several pages", "1 without a suffix"):
        assert part in said
