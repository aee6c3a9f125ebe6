"""A detector of deep pictures: its rule goes with it, so that it judges as its test phase did, from files and arrays."""

import csv
import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import kdad
from kdad.engine.checkpoint import Checkpoint
from kdad.engine.retest import retest
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.export.card import describe_values
from kdad.run import run
from kdad.settings.compose import compose, resolve
from kdad.settings.roles import config_hash
from kdad.teacher import Teacher

SIZE = 64
OPTIONS = [
    "model=rd", "dataset=folder", "backbone.name=test_resnet.r160_in1k", f"image_size={SIZE}", "batch_size=4",
    "trainer.max_epochs=1", "trainer.accelerator=cpu", "+trainer.enable_progress_bar=false", "logger=none",
    "pictures=0", "levels=[1,2,3]", "dataset.anomalous=square",
]  # fmt: skip


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Pictures of 12 bits in two-page TIFFs, of which the second is meant; overrides to train on them."""
    place, generator = tmp_path_factory.mktemp("deep"), np.random.default_rng(0)
    for name, n in (("normal", 10), ("square", 2)):
        (place / "pictures" / name).mkdir(parents=True)
        for i in range(n):
            values = generator.integers(900, 1800, (70, 90)).astype(np.uint16)
            if name == "square":
                values[20:40, 30:50] = 3600
            with tifffile.TiffWriter(place / "pictures" / name / f"{i}.tif") as file:
                file.write(values // 2)
                file.write(values)
    torch.manual_seed(0)
    body = Teacher("test_resnet.r160_in1k", pretrained=False, levels=[1, 2, 3], image_size=SIZE).body
    torch.save(body.state_dict(), place / "teacher.pth")
    return place, [*OPTIONS, f"dataset.root={place / 'pictures'}", f"backbone.weights={place / 'teacher.pth'}"]


@pytest.fixture(scope="module")
def trained(deep):
    place, overrides = deep
    cfg = compose(*overrides, "dataset.intensity='percentile:1,99'", "dataset.page=1")
    run(cfg, RunFolder(place / "run"))
    return RunFolder(place / "run"), cfg


def read_scores(folder: RunFolder) -> dict[str, float]:
    with folder.scores.open(newline="") as file:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(file)}


def test_the_window_is_kept_with_the_detector(trained):
    folder, _ = trained
    results, rule = folder.read(), Checkpoint.load(folder.path).rule
    assert rule["intensity"] == "percentile:1,99" and rule["page"] == 1
    assert rule["window"] == [results["intensity_low"], results["intensity_high"]]
    assert 900 < rule["window"][0] < 950 and 1750 < rule["window"][1] < 1800
    json.dumps(rule)


def test_scores_are_those_of_the_test_phase(trained):
    """From files, and from arrays of the values that they hold."""
    detector, expected = kdad.load(trained[0].path), read_scores(trained[0])
    for path, score in expected.items():
        assert detector(path).score == pytest.approx(score, rel=1e-6)
        values = tifffile.imread(path, key=1)
        for given in (values, values.astype(np.float32), Image.fromarray(values)):
            assert detector(given).score == pytest.approx(score, rel=1e-6)
    assert len(set(expected.values())) == len(expected) > 4
    with pytest.raises(UserError, match="NaN"):
        detector(np.full((70, 90), np.nan))


def test_pictures_without_that_page_are_refused(trained, tmp_path):
    Image.fromarray(np.zeros((70, 90), np.uint16)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="a.tif has 1 page, and the first is 0"):
        kdad.load(trained[0].path)(tmp_path / "a.tif")


def test_tested_again_without_training_images_it_uses_the_same_window(trained, tmp_path, caplog):
    folder, cfg = trained
    cfg = cfg.copy()
    cfg.ckpt_path = str(folder.path)
    again = RunFolder(tmp_path / "again")
    retest(cfg, again)
    assert read_scores(again) == pytest.approx(read_scores(folder), rel=1e-6)
    assert again.read()["intensity_low"] == folder.read()["intensity_low"]
    assert "was trained with dataset.intensity" not in caplog.text
    cfg.dataset.intensity = "window:0,65535"  # other data, as of another camera: allowed, and said
    retest(cfg, RunFolder(tmp_path / "other"))
    assert "was trained with dataset.intensity=window:9" in caplog.text


def test_training_goes_on_with_the_window_that_it_began_with(trained, tmp_path, monkeypatch):
    folder, cfg = trained
    cfg = cfg.copy()
    cfg.ckpt_path, cfg.trainer.max_epochs = str(folder.checkpoint("last")), 2
    monkeypatch.setattr("kdad.data.decoding.find_window", lambda *_: pytest.fail("found anew"))
    run(cfg, RunFolder(tmp_path / "more"))
    assert Checkpoint.load(tmp_path / "more").rule == Checkpoint.load(folder.path).rule


def test_the_card_of_an_exported_file_says_the_rule(trained):
    detector = kdad.load(trained[0].path)
    assert "page 1 of a file" in describe_values(detector.rule) and repr(detector.rule.window[0]) in describe_values(
        detector.rule
    )
    assert describe_values(kdad.data.intensity.AUTO) == "RGB in [0, 1]: an 8-bit image divided by 255"


def test_a_rule_is_another_condition_and_none_is_as_before(deep):
    def hash_of(*more: str) -> str:
        return config_hash(resolve(compose(*deep[1], *more)))

    assert len({hash_of(), hash_of("dataset.intensity='window:0,1'"), hash_of("dataset.page=1")}) == 3
    before = resolve(compose(*deep[1]))
    for key in ("intensity", "page", "list", "recursive"):
        del before["dataset"][key]
    assert config_hash(before) == hash_of()
