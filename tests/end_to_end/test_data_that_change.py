"""A folder that grows between two runs: nothing that was trained on is tested, and it is said that the data are others."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from kdad.engine.checkpoint import Checkpoint
from kdad.evaluate import main as evaluate
from kdad.figures.__main__ import main as draw
from kdad.report.__main__ import main as report

RNG = np.random.default_rng(0)
TINY = [
    "model=stpm", "dataset=folder", "dataset.anomalous=scratch", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false",
    "image_size=64", "batch_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu", "optimizer.lr=0.05",
    "pictures=0", "logger=none", "val_fraction=0", "monitor=null", "dataset.root=pictures", "hydra.run.dir=run",
]  # fmt: skip


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


@pytest.fixture
def pictures(tmp_path):
    for name in [*(f"normal/{i}.png" for i in range(16)), *(f"scratch/{i}.png" for i in range(3))]:
        save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def results(folder):
    return json.loads((folder / "results.json").read_text())


def list_images(folder):
    with (folder / "scores.csv").open() as file:
        return {row["path"].rpartition("pictures/")[2] for row in csv.DictReader(file)}


def test_a_resumed_run_tests_nothing_that_it_was_trained_on(command, pictures, tmp_path):
    assert command(*TINY) == 0
    seen = set(Checkpoint.load(tmp_path / "run/checkpoints/last.ckpt").seen)
    assert seen.isdisjoint(list_images(tmp_path / "run")) and len(seen) == results(tmp_path / "run")["n_train"]
    for i in range(60):
        save(pictures / f"normal/later{i}.png")
    assert command("ckpt_path=run/checkpoints/last.ckpt", "trainer.max_epochs=2") == 0
    longer = results(tmp_path / "run_2")
    assert seen.isdisjoint(list_images(tmp_path / "run_2")) and longer["n_train"] > len(seen)
    assert longer["config_hash"] is None and "data (" in longer["changed_when_resumed"]
    assert longer["data_fingerprint"] != results(tmp_path / "run")["data_fingerprint"]


def test_where_it_would_the_run_is_refused(command, pictures, tmp_path, capsys):
    """With another share held out, a training image is to be tested."""
    assert command(*TINY, "dataset.test_fraction=0.1") == 0
    last = "ckpt_path=run/checkpoints/last.ckpt"
    assert command(last, "trainer.max_epochs=2", "dataset.test_fraction=0.6") == 2
    assert "was trained on are test images now" in capsys.readouterr().err
    assert results(tmp_path / "run")["status"] == "ok" and results(tmp_path / "run_2")["status"] == "failed"


def test_a_finished_run_is_not_done_on_other_data(command, pictures, tmp_path, capsys):
    again = [*TINY, "skip_done=true"]
    assert command(*again) == 0 and command(*again) == 0
    assert "Done already" in capsys.readouterr().out
    save(pictures / "normal/later.png")
    assert command(*again) == 0
    assert "the data have changed" in capsys.readouterr().out and results(tmp_path / "run_2")["status"] == "ok"
    assert command(*again) == 0 and "Done already" in capsys.readouterr().out
    shutil.move(pictures, tmp_path / "elsewhere")
    assert command(*again, "dataset.root=elsewhere") == 0 and "Done already" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["normal", "scratch"])
def test_pictures_of_the_same_size_are_other_data(command, tmp_path, capsys, caplog, part):
    """As those without compression have."""
    for name in [*(f"normal/{i}.bmp" for i in range(10)), "scratch/0.bmp", "scratch/1.bmp"]:
        save(tmp_path / "pictures" / name)
    again = [*TINY, "skip_done=true"]
    assert command(*again) == 0 and command(*again) == 0 and "Done already" in capsys.readouterr().out
    (place, *_) = sorted((tmp_path / "pictures" / part).iterdir())
    Image.new("RGB", Image.open(place).size, "red").save(place)
    assert command("ckpt_path=run/checkpoints/tested.ckpt", "hydra.run.dir=again", main=evaluate) == 0
    assert "not those that" in caplog.text
    assert command(*again) == 0 and "the data have changed" in capsys.readouterr().out
    mark = results(tmp_path / "run")["data_fingerprint"]
    assert mark.partition("-")[0] == results(tmp_path / "run_2")["data_fingerprint"].partition("-")[0]
    for folder in ("run", "run_2"):  # of a kdad that did not look into files
        place = tmp_path / folder / "results.json"
        place.write_text(json.dumps(results(tmp_path / folder) | {"data_fingerprint": mark.partition("-")[0]}))
    assert command(*again) == 0 and "Done already" in capsys.readouterr().out


def test_names_of_any_bytes_are_trained_on_tested_and_reported(command, tmp_path, capsys):
    """As an archive from elsewhere has them, and with a line break."""
    names = [os.fsdecode(b"gr\xfcn%d.png" % i) for i in range(9)]
    for name in [*(f"normal/{name}" for name in names), f"scratch/{names[0]}", "scratch/a\nb.png"]:
        save(tmp_path / "pictures" / name)
    given = [option for option in TINY if option != "pictures=0"]
    assert command(*given) == 0 and command(*given, "skip_done=true") == 0
    assert "Done already" in capsys.readouterr().out
    with (tmp_path / "run/scores.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        tested = {row["path"].rpartition("pictures/")[2] for row in csv.DictReader(file)}
    assert {f"scratch/{names[0]}", "scratch/a\nb.png"} < tested
    report([str(tmp_path / "run"), "--html", str(tmp_path / "page.html")])
    assert "left out" not in capsys.readouterr().out and b"gr\xfcn0" in (tmp_path / "page.html").read_bytes()
    draw(["gallery", str(tmp_path / "run"), "--out", str(tmp_path / "figures")])
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_a_checkpoint_is_tested_from_another_folder(command, pictures, tmp_path, monkeypatch):
    """dataset.root was typed relative to the folder that the run was started in."""
    assert command(*TINY) == 0
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.setattr(monkeypatch, "chdir", lambda folder: None)  # `command` would go back
    code = command("ckpt_path=../run/checkpoints/tested.ckpt", "hydra.run.dir=again", main=evaluate)
    assert code == 0 and list_images(tmp_path / "below/again") == list_images(tmp_path / "run")
    made_by = Checkpoint.load(tmp_path / "run/checkpoints/tested.ckpt")
    assert made_by.config["dataset"]["root"] == str(pictures) and f"dataset.root={pictures}" in made_by.overrides


def test_images_that_were_trained_on_are_not_validated_on(command, pictures, tmp_path, capsys):
    """Also where a data set holds out the first so many: which those are changes as it grows."""
    given = [*TINY, "dataset.split_by=count", "dataset.test_fraction=0", "val_fraction=0.2"]
    assert command(*given) == 0
    for i in range(40):
        save(pictures / f"normal/later{i}.png")
    assert command("ckpt_path=run/checkpoints/last.ckpt", "trainer.max_epochs=2") == 2
    said = capsys.readouterr().err
    assert "have another part now" in said and "was for train and would be for validation" in said


def test_tests_on_changed_data_say_so(command, pictures, tmp_path, caplog):
    assert command(*TINY) == 0
    trained = results(tmp_path / "run")
    for i in range(12):
        save(pictures / f"normal/later{i}.png")
    assert command("ckpt_path=run/checkpoints/tested.ckpt", "hydra.run.dir=again", main=evaluate) == 0
    again = results(tmp_path / "again")
    assert "not those that" in caplog.text and again["data_fingerprint"] != trained["data_fingerprint"]
    assert again["n_train"] == trained["n_train"] and again["n_test"] > trained["n_test"]


def test_a_complete_run_goes_on_where_its_data_have_changed(command, pictures, tmp_path, capsys):
    last = "ckpt_path=run/checkpoints/last.ckpt"
    assert command(*TINY) == 0 and command(last) == 0
    assert "Done already" in capsys.readouterr().out
    save(pictures / "scratch/later.png")
    assert command(last) == 0
    assert "Done already" not in capsys.readouterr().out
    assert results(tmp_path / "run_2")["n_test"] == results(tmp_path / "run")["n_test"] + 1


def test_trained_images_are_not_tested_under_another_name_of_their_folder(command, pictures, tmp_path, capsys):
    assert command(*TINY) == 0
    (tmp_path / "link").symlink_to(pictures)
    given = ["ckpt_path=run/checkpoints/tested.ckpt", "dataset.root=link", "dataset.test_fraction=0.8"]
    assert command(*given, "hydra.run.dir=again", main=evaluate) == 2
    assert "test images have the names of images trained on" in capsys.readouterr().err


def test_folders_elsewhere_with_equal_names_are_told_apart(command, pictures, tmp_path, caplog):
    for folder in ("a/good", "b/good"):
        for i in range(4):
            save(tmp_path / folder / f"{i}.png")
    given = [f"dataset.normal={tmp_path}/a/good", f"dataset.normal_test={tmp_path}/b/good"]
    assert command(*TINY, *given) == 0
    assert command("ckpt_path=run/checkpoints/tested.ckpt", "hydra.run.dir=again", main=evaluate) == 0
    assert "trained on" not in caplog.text


def test_data_below_the_default_root_are_found_from_another_folder(command, pictures, tmp_path, monkeypatch):
    monkeypatch.delenv("KDAD_DATA", raising=False)
    (tmp_path / "data").mkdir()
    pictures.rename(tmp_path / "data/folder")
    assert command(*[option for option in TINY if not option.startswith("dataset.root")]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(
        "sys.argv", ["kdad", f"ckpt_path={tmp_path}/run/checkpoints/tested.ckpt", "hydra.run.dir=again"]
    )
    evaluate()
    assert results(tmp_path / "elsewhere/again")["status"] == "ok"
