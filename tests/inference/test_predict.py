"""`kdad predict` as it is used: what it writes, what it skips, and what it refuses."""

import csv
import io
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import kdad
from kdad.errors import UserError
from kdad.predict.folder import PredictionFolder
from tests.inference.trained import train
from tests.layouts import mvtec_ad2
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


def test_maps_for_the_server_of_mvtec_ad2(rd, predict, tmp_path, capsys):
    mvtec_ad2(tmp_path / "ad2")
    can = tmp_path / "ad2/can"
    both = f"input=[{can}/test_private,{can}/test_private_mixed]"
    assert predict(both, "maps=mvtec_ad2", "masks=true", "overlays=none") == 0
    out, detector = tmp_path / "out", kdad.load(rd.folder)
    names = [f"can/{place}/{stem}" for place in ("test_private", "test_private_mixed")
             for stem in ("000_regular", "001_overexposed")]  # fmt: skip
    for folder, suffix in {"anomaly_images": ".tiff", "anomaly_images_thresholded": ".png"}.items():
        found = sorted(str(path.relative_to(out / folder)) for path in (out / folder).rglob("*.*"))
        assert found == [name + suffix for name in names]
    result = detector(can / "test_private/001_overexposed.png")
    heat = tifffile.imread(out / "anomaly_images/can/test_private/001_overexposed.tiff")
    assert heat.dtype == np.float16 and heat.shape == (70, 70) and np.allclose(heat, result.anomaly_map, rtol=2e-3)
    white = np.asarray(Image.open(out / "anomaly_images_thresholded/can/test_private/001_overexposed.png"))
    assert white.dtype == np.uint8 and np.array_equal(white, 255 * result.mask)
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"anomaly_images", "anomaly_images_thresholded"}
    assert predict(both, "maps=mvtec_ad2", "masks=true", "overlays=none", "skip_done=true") == 0
    assert "0 files judged, 4 judged before" in capsys.readouterr().out
    assert predict(f"input={can}/test_public", "maps=mvtec_ad2", into="public") == 2
    assert "does not lie in <object>/test_private or <object>/test_private_mixed" in capsys.readouterr().err
    assert not (tmp_path / "public/scores.csv").exists()


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
    assert "maps=jpg: give one of none, npy, tiff16, mvtec_ad2" in refused(f"input={rd.pictures}", "maps=jpg")
    assert "inputs: no such key. Nearest: input" in refused("+inputs=x", f"input={rd.pictures}")
    assert "false_alarms: no such key. It is one of kdad calibrate" in refused(
        "false_alarms=0.1", f"input={rd.pictures}"
    )
    assert "model: no such key. It is one of kdad benchmark and kdad run" in refused("model=rd", f"input={rd.pictures}")
    assert "backbone: give one of its keys: backbone.weights" in refused("backbone=x", f"input={rd.pictures}")
    assert "kdad calibrate" in refused("treshold=3", f"input={rd.pictures}")
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
    shutil.copytree(rd.pictures / "normal", tmp_path / "ok")
    arguments = (f"ckpt_path={rd.folder}", f"normal={tmp_path / 'ok'}", f"output={output}")
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


def test_thresholds_of_trained_pictures_promise_nothing(rd, command_line, tmp_path, capsys):
    """Nor do copies count, nor is f1 taken of nothing, nor a checkpoint written that could not be read."""
    given = [f"ckpt_path={rd.folder}", f"output={tmp_path / 'a.ckpt'}"]
    assert command_line("calibrate", *given, f"normal={rd.pictures / 'normal'}") == 0
    assert "8 of the normal pictures are of those that it was trained on" in capsys.readouterr().out
    decision = kdad.load(tmp_path / "a.ckpt").decision
    assert decision.source == "given_training" and decision.promise() is None
    shutil.copytree(rd.pictures / "normal", tmp_path / "ok")
    shutil.copy(tmp_path / "ok/0.png", tmp_path / "ok/copy.png")
    assert command_line("calibrate", *given, f"normal={tmp_path / 'ok'}", "overwrite=true") == 0
    assert "1 of the normal pictures are exact copies" in capsys.readouterr().out
    assert kdad.load(tmp_path / "a.ckpt").decision.n_images == 10
    (tmp_path / "none").mkdir()
    for more, words in (
        ([f"anomalous={tmp_path / 'none'}", "rule=f1"], f"anomalous={tmp_path / 'none'}: no picture there"),
        (["output=b.safetensors"], "called <name>.ckpt"),
        (["normal=gone"], "normal=gone: no such file"),
        (["normal=-"], "normal=-: only the input of kdad predict"),
    ):
        assert command_line("calibrate", *given, f"normal={tmp_path / 'ok'}", "overwrite=true", *more) == 2
        assert words in capsys.readouterr().err


def test_a_decision_that_cannot_be_read_is_set_anew(rd, command_line, tmp_path, capsys):
    content = torch.load(rd.checkpoint, weights_only=True)
    content["kdad"]["decision"]["of_the_future"] = 1
    torch.save(content, tmp_path / "newer.ckpt")
    with pytest.raises(UserError, match="kdad calibrate sets another"):
        kdad.load(tmp_path / "newer.ckpt", weights=str(rd.weights))
    given = [
        f"ckpt_path={tmp_path / 'newer.ckpt'}",
        f"normal={rd.pictures / 'normal'}",
        f"output={tmp_path / 'set.ckpt'}",
    ]
    assert command_line("calibrate", *given) == 0
    assert kdad.load(tmp_path / "set.ckpt").decision.n_images == 10


def copy_pictures(rd, *places):
    for i, place in enumerate(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(rd.pictures / f"normal/{i}.png", place)


def test_names_of_any_bytes(rd, predict, tmp_path):
    name = os.fsdecode(b"gr\xfcn.png")
    long = "n" * 240 + ".jpg"
    copy_pictures(rd, tmp_path / "mix/a.png", tmp_path / "mix" / name, tmp_path / "mix" / long)
    arguments = [f"ckpt_path={rd.folder}", "input=mix", "hydra.run.dir=out"]
    assert predict(*arguments) == 0 and predict(*arguments, "skip_done=true") == 0
    with (tmp_path / "out/scores.csv").open(encoding="utf-8", errors="surrogateescape") as file:
        assert {Path(row["path"]).name for row in csv.DictReader(file)} == {"a.png", name, long}
    assert len(list((tmp_path / "out/overlays").iterdir())) == 3


def test_pictures_of_several_calls_and_inputs_never_meet(rd, predict, tmp_path):
    """Each row keeps its own overlay, whatever the inputs are called, and in whatever order they come."""
    a, b, c = tmp_path / "a/ok/0.png", tmp_path / "b/ok/0.png", tmp_path / "c/1_ok/0.png"
    copy_pictures(rd, a, b, c)
    given = [f"ckpt_path={rd.folder}", "hydra.run.dir=out", "skip_done=true"]
    assert predict(*given, "input=a/ok") == 0
    first = (tmp_path / "out/overlays/0.png").read_bytes()
    assert predict(*given, "input=b/ok") == 0
    assert (tmp_path / "out/overlays/0.png").read_bytes() == first
    assert [row["path"] for row in table(tmp_path / "out/scores.csv")] == [str(b), str(a)]  # earlier ones stay
    assert predict(*given, "input=[b/ok,c/1_ok,a/ok]") == 0
    assert [row["path"] for row in table(tmp_path / "out/scores.csv")] == [str(b), str(c), str(a)]
    assert len(list((tmp_path / "out/overlays").rglob("*.png"))) == 3
    assert predict(f"ckpt_path={rd.folder}", "hydra.run.dir=fresh", "input=[a/ok,b/ok,c/1_ok]") == 0
    assert len(list((tmp_path / "fresh/overlays").rglob("*.png"))) == 3


def test_a_folder_called_as_a_picture_of_another_file_is_renamed(rd, predict, tmp_path):
    first, inner, other = tmp_path / "c/x.jpg", tmp_path / "c/x.jpg.png/z.png", tmp_path / "d/x.jpg"
    copy_pictures(rd, first, inner, other)
    given = [f"ckpt_path={rd.folder}", "maps=npy", "masks=true"]
    assert predict(*given, "hydra.run.dir=out_a", "input=[c/x.jpg,c]") == 0  # the file comes first
    assert predict(*given, "hydra.run.dir=out_b", "input=[c/x.jpg.png,d/x.jpg]") == 0
    assert predict(*given, "hydra.run.dir=out_c", "input=c") == 0
    assert predict(*given, "hydra.run.dir=out_d", "input=c/x.jpg.png/z.png") == 0
    assert predict(*given, "hydra.run.dir=out_d", "input=c", "skip_done=true") == 0
    for folder in "abcd":
        places = [tmp_path / f"out_{folder}" / kind for kind in ("overlays", "masks", "maps")]
        assert [len([p for p in place.rglob("*") if p.is_file()]) for place in places] == [2] * 3


def test_a_picture_is_judged_anew_in_another_region_of_interest(tmp_path, command_line):
    for half in ("left", "right"):
        for kind, count in (("normal", 10), ("square", 2)):
            (tmp_path / half / kind).mkdir(parents=True)
            for i in range(count):
                mask = np.zeros((70, 90), np.uint8)
                mask[:, slice(0, 45) if half == "left" else slice(45, 90)] = 255
                Image.fromarray(mask).save(tmp_path / half / kind / f"{i}.png")
    trained = train("rd", tmp_path / "trained", f"dataset.roi={tmp_path / 'left'}")
    given = [f"ckpt_path={trained.folder}", f"input={trained.pictures / 'square'}", "overlays=none"]

    def judge(half, into, *more):
        assert command_line("predict", *given, f"roi={tmp_path / half}", f"hydra.run.dir={tmp_path / into}", *more) == 0
        return [row["score"] for row in table(tmp_path / into / "scores.csv")]

    left, right = judge("left", "a"), judge("right", "b")
    assert left != right and judge("left", "a", "skip_done=true") == left
    assert judge("right", "a", "skip_done=true") == right and judge("left", "a", "skip_done=true") == left


def test_a_bad_file_that_is_gone_is_forgotten(rd, predict, tmp_path, capsys):
    copy_pictures(rd, tmp_path / "b/0.png", tmp_path / "b/1.png")
    (tmp_path / "b/bad.png").write_bytes(b"x")
    given = [f"ckpt_path={rd.folder}", "input=b", "hydra.run.dir=out", "skip_done=true"]
    assert predict(*given) == 3
    (tmp_path / "b/bad.png").unlink()
    assert predict(*given) == 0 and "cannot be read" not in capsys.readouterr().out.rpartition("judged before")[2]


def test_a_call_that_is_refused_leaves_its_folder_free_and_results_are_no_input(rd, predict, tmp_path, capsys):
    copy_pictures(rd, tmp_path / "p/0.png")
    given = [f"ckpt_path={rd.folder}", "hydra.run.dir=p/out"]
    assert predict(*given, 'input=[p,"nope/*.png"]') == 2 and "nope/*.png: no picture there" in capsys.readouterr().err
    assert predict(*given, "input=p") == 0
    for where in ("p/second", "p"):  # beside the first, and in the very folder of the pictures
        assert predict(f"ckpt_path={rd.folder}", "input=p", f"hydra.run.dir={where}") == 0
        assert [row["path"] for row in table(tmp_path / where / "scores.csv")] == [str(tmp_path / "p/0.png")]
    assert predict(f"ckpt_path={rd.folder}", "input=p", "hydra.run.dir=p", "skip_done=true") == 0
    assert len(table(tmp_path / "p/scores.csv")) == 1


def test_what_stops_in_the_middle_keeps_the_table_whole(rd, predict, tmp_path):
    copy_pictures(rd, *(tmp_path / f"p/{i}.png" for i in range(6)))
    given = [f"ckpt_path={rd.folder}", "input=p", "hydra.run.dir=out", "batch_size=1", "skip_done=true"]
    assert predict(*given) == 0
    (tmp_path / "p/2.png").write_bytes(b"x")
    assert predict(*given, "strict=true") == 2
    assert len(table(tmp_path / "out/scores.csv")) == 6


def test_a_file_that_was_half_written_is_judged_when_it_is_whole(rd, predict, tmp_path):
    """Also by a pattern that stands for nothing at first."""
    arguments = [f"ckpt_path={rd.folder}", "input=parts/*.png", "hydra.run.dir=out", "watch=true", "watch_seconds=6"]
    (tmp_path / "parts").mkdir()
    process = start_module("kdad.predict", arguments, tmp_path)
    journal, whole = tmp_path / "out/.judged", (rd.pictures / "normal/0.png").read_bytes()
    started = time.monotonic()
    while not journal.exists() and time.monotonic() - started < 60:
        time.sleep(0.05)
    (tmp_path / "parts/0.png").write_bytes(whole[:2000])
    while "error" not in journal.read_text() and time.monotonic() - started < 60:
        time.sleep(0.05)
    (tmp_path / "parts/0.png").write_bytes(whole)
    process.join(60)
    assert process.exitcode == 0 and len(table(tmp_path / "out/scores.csv")) == 1


def test_the_rows_of_many_pictures_are_listed_at_once(tmp_path):
    """Those of the order first, then earlier ones that are still there: 20,000 took two minutes, by their square."""
    folder = PredictionFolder(tmp_path / "judged", "none", "none", False)
    paths = [str(tmp_path / f"{number}.png") for number in range(20_000)]
    folder.rows = {path: {"path": path} for path in [*paths, str(tmp_path / "gone.png"), str(tmp_path)]}
    began = time.process_time()
    rows = folder.list_rows(reversed(paths))
    assert time.process_time() - began < 5
    assert [row["path"] for row in rows] == [*reversed(paths), str(tmp_path)]
