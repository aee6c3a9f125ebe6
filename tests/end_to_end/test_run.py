"""What a run leaves, and what it refuses."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from tests.end_to_end.conftest import SMALL


def test_what_a_run_leaves(start):
    results, folder = start("pictures=4")
    written = json.loads((folder / "results.json").read_text())
    assert written == results
    assert written["status"] == "ok" and (written["model"], written["dataset"], written["category"]) == (
        "rd",
        "mvtec",
        "tile",
    )
    assert all(0 <= written[key] <= 1 for key in ("image_auroc", "pixel_auroc", "pro"))
    expected = {"backbone": "test_resnet.r160_in1k", "image_size": 64, "epochs": 1, "seed": 0, "split_seed": 0, "n_train": 8,
                "n_test": 6, "weights": "random", "levels": "layer1 layer2 layer3"}  # fmt: skip
    assert {key: written[key] for key in expected} == expected
    assert written["fit_seconds"] > 0 and written["test_seconds"] > 0 and len(written["weights_fingerprint"]) == 16
    assert all(f"{name} " in written["versions"] for name in ("kdad", "torch", "timm", "python"))
    assert not [key for key, value in written.items() if isinstance(value, dict | list)]  # flat

    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"].split("/")[-2:] for row in rows] == [
        [k, f"00{i}.png"] for k in ("good", "square") for i in range(3)
    ]
    assert [row["label"] for row in rows] == ["0"] * 3 + ["1"] * 3

    scores = {kind: [float(r["score"]) for r in rows if r["label"] == kind] for kind in "01"}
    pairs = [(a > n) + 0.5 * (a == n) for a in scores["1"] for n in scores["0"]]
    assert sum(pairs) / len(pairs) == pytest.approx(written["image_auroc"], abs=1e-12)

    curves = np.load(folder / "curves.npz")
    for x, y in (("image_fpr", "image_tpr"), ("pixel_fpr", "pixel_tpr"), ("pro_fpr", "pro")):
        assert curves[x].shape == curves[y].shape and curves[x][0] == 0 and curves[x][-1] == 1
    assert np.trapezoid(curves["image_tpr"], curves["image_fpr"]) == pytest.approx(written["image_auroc"], abs=1e-12)

    pictures = sorted((folder / "maps").iterdir())
    assert len(pictures) == 4 and Image.open(pictures[0]).size == (3 * 64 + 4, 64)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["dataset"]["image_size"] == 64 and config["trainer"]["max_epochs"] == 1
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    log = list(csv.DictReader(open(folder / "log" / "metrics.csv")))
    assert float(log[0]["loss"]) == pytest.approx(sum(float(log[0][f"loss_level_{k}"]) for k in (1, 2, 3)), rel=1e-5)


def test_same_seed_same_numbers(start):
    (_, first), (_, second) = start("trainer.max_epochs=2", folder="a"), start("trainer.max_epochs=2", folder="b")
    _, other = start("trainer.max_epochs=2", "seed=1", folder="c")
    scores = [(folder / "scores.csv").read_bytes() for folder in (first, second, other)]
    assert scores[0] == scores[1] != scores[2]


def test_pictures_show_the_maps_on_one_scale_per_run():
    """Two maps of the values 0 and 1, 0 and 2: only the second reaches the top of the scale."""
    from kdad.engine.test import COLOURS, Evaluation

    evaluation = Evaluation()
    evaluation.lowest, evaluation.highest = 0.0, 2.0
    image, mask = np.zeros((1, 2, 3), np.float32), np.array([[False, True]])
    for top in (1.0, 2.0):
        picture = evaluation.make_picture(image, np.array([[0.0, top]], np.float32), mask)
        assert picture.shape == (1, 2 * 3 + 2 * 2, 3)
        assert picture[0, 5].tolist() == [round(255 * c) for c in COLOURS(top / 2)[:3]]
        assert picture[0, -2:].tolist() == [[0] * 3, [255] * 3]  # the mask as it is


def test_without_masks_there_are_image_metrics_only(start, tiny_mvtec, tmp_path):
    root = tmp_path / "unmasked"
    (root / "tile").mkdir(parents=True)
    for part in ("train", "test"):
        (root / "tile" / part).symlink_to(tiny_mvtec / "tile" / part)
    results, _ = start(f"dataset.root={root}")
    assert 0 <= results["image_auroc"] <= 1
    for key in ("pixel_auroc", "pro"):
        assert results[key] is None and results[f"{key}_reason"] == "the data set has no masks"


def test_one_class_only(start, tiny_mvtec, tmp_path):
    root = tmp_path / "normal_only"
    (root / "tile" / "test").mkdir(parents=True)
    (root / "tile" / "train").symlink_to(tiny_mvtec / "tile/train")
    (root / "tile" / "test" / "good").symlink_to(tiny_mvtec / "tile/test/good")
    results, folder = start(f"dataset.root={root}")
    assert results["status"] == "ok" and results["image_auroc"] is None
    assert results["image_auroc_reason"] == "no anomalous image in the test set"
    assert len((folder / "scores.csv").read_text().splitlines()) == 4


def test_divergence_is_an_error(start):
    with pytest.raises(UserError, match="Training diverged: loss"):
        start("optimizer.lr=1e30", "trainer.max_epochs=4", folder="diverged")


def test_the_results_of_a_failure(start, tmp_path):
    with pytest.raises(UserError):
        start("category=tyle")
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["status"] == "failed" and "Did you mean tile?" in written["error"]
    assert written["image_auroc"] is written["pixel_auroc"] is written["pro"] is None


def test_a_job_that_fails_at_work_leaves_no_earlier_results_behind(start):
    _, folder = start("pictures=6", "+variants.a={}")
    with pytest.raises(UserError, match="diverged"):
        start("optimizer.lr=1e30", "trainer.max_epochs=4")
    written = json.loads((folder / "results.json").read_text())
    assert written["status"] == "failed" and "diverged" in written["error"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["lr"] == 1e30
    for name in ("scores.csv", "curves.npz", "maps", "variants", "checkpoints/tested.ckpt"):
        assert not (folder / name).exists()


def test_a_job_that_is_refused_leaves_complete_results_as_they_are(start):
    """What they are of says the config.yaml beside them, and why the later job is not there, refused.json."""
    _, folder = start("pictures=2", "trainer.max_epochs=2")

    def files():
        found = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("refused.json", ".kdad")]
        return {path.relative_to(folder): path.read_bytes() for path in found}

    before, last = files(), f"ckpt_path={folder}/checkpoints/last.ckpt"
    for given, message in (
        (["image_size=100"], "multiple of 32"),
        (["seed=-1"], "seed=-1"),
        (["category=tyle"], "Did you mean tile"),
        (["+variants.a={image_size:32}"], "variants.a"),
        (["ckpt_path=nowhere.ckpt"], "no such file"),
        ([f"ckpt_path={folder}/checkpoints/tested.ckpt"], "holds weights alone"),
        ([last, "trainer.max_epochs=1"], "has 2 epochs behind it"),
        ([last, "trainer.max_epochs=3", "levels=[1,2]"], "trained with a teacher of"),
        ([last, "trainer.max_epochs=3", "model.bottleneck=oce"], "do not fit this configuration"),
    ):
        with pytest.raises(UserError, match=message):
            start(*given)
        assert files() == before, given
        refused = json.loads((folder / "refused.json").read_text())
        assert refused["status"] == "failed" and re.search(message, refused["error"]) and refused["pro"] is None
    start("pictures=0")
    assert not (folder / "refused.json").exists() and not (folder / "maps").exists()


def test_a_refused_job_takes_a_folder_without_complete_results(start):
    with pytest.raises(UserError):
        start("category=tyle")
    with pytest.raises(UserError):
        _, folder = start("image_size=100")
    folder = start("pictures=0", folder="other")[1].parent / "run"
    assert "multiple of 32" in json.loads((folder / "results.json").read_text())["error"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["image_size"] == 100


def test_a_resumed_run_clears_the_checkpoints_of_another_one(start, tmp_path):
    """Where its results go elsewhere: what lies there is of another run."""
    _, folder = start("pictures=0", "trainer.max_epochs=1")
    start("pictures=0", "trainer.max_epochs=2", "average_epochs=2", folder="other")
    assert (tmp_path / "other/checkpoints/epoch_1.ckpt").exists()
    start("pictures=0", "trainer.max_epochs=2", f"ckpt_path={folder}/checkpoints/last.ckpt", folder="other")
    found = sorted(p.name for p in (tmp_path / "other" / "checkpoints").iterdir())
    assert found == ["last.ckpt", "tested.ckpt"]


def test_the_progress_bar_counts_epochs_from_one(start, capsys):
    start("trainer.max_epochs=2", "pictures=0")
    said = capsys.readouterr().out
    assert "Epoch 2/2" in said and "Epoch 0" not in said
    start("trainer.max_epochs=-1", "+trainer.max_steps=2", "pictures=0", folder="steps")
    assert "Epoch 1 " in capsys.readouterr().out


def test_without_a_progress_bar(start, capsys):
    assert start("+trainer.enable_progress_bar=false", "pictures=0")[0]["status"] == "ok"
    assert "Epoch 0" not in capsys.readouterr().out


def test_bf16_mixed_keeps_the_scores_apart(start):
    results, folder = start("trainer.precision=bf16-mixed", "trainer.max_epochs=2")
    with open(folder / "scores.csv", newline="") as file:
        scores = [row["score"] for row in csv.DictReader(file)]
    assert len(set(scores)) == 6 and results["status"] == "ok"


def test_limits_are_counted(start):
    assert start("trainer.limit_test_batches=1")[0]["n_test"] == 4


def test_images_are_read_before_training(start, tiny_mvtec, tmp_path):
    import shutil

    root = tmp_path / "damaged"
    shutil.copytree(tiny_mvtec, root)
    victim = root / "tile/test/square/001.png"
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(UserError, match=f"cannot read image {victim}"):
        start(f"dataset.root={root}")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_missions_command_without_data_and_weights(tmp_path):
    """It stops within seconds, without a traceback, and says everything at once."""
    environment = {k: v for k, v in os.environ.items() if k != "KDAD_DATA"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    result = subprocess.run(
        [sys.executable, "-m", "kdad.run", "model=rd", "dataset=mvtec", "category=screw"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == 2 and "Traceback" not in result.stderr
    for part in (
        str(tmp_path / "data" / "mvtec"), "dataset.root=<folder>", "mvtec.com", "CC BY-NC-SA 4.0",
        "wide_resnet50_2.tv_in1k", "backbone=efficientnet_lite0", "backbone.weights=<file>",
    ):  # fmt: skip
        assert part in result.stderr, part


def test_a_missing_category_tells_where_others_are(start):
    with pytest.raises(UserError, match="no category screw in .* It has: tile.*dataset.root=.*mvtec.com.*CC BY-NC-SA"):
        start("category=screw")


@pytest.mark.parametrize("model", ["rd", "dskd"])
def test_the_decision_at_the_thresholds(start, model):
    results, folder = start(f"model={model}", "calibration_fraction=0.3", "decision.rule=max")
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() == {"path", "label", "score", "kind", "normalised_score", "decision"}
    assert {row["kind"] for row in rows} == {"good", "square"}
    assert all((float(r["normalised_score"]) > 0.5) == (r["decision"] == "1") for r in rows)
    assert all((float(r["score"]) > results["image_threshold"]) == (r["decision"] == "1") for r in rows)
    by_score = sorted(rows, key=lambda r: float(r["score"]))
    assert by_score == sorted(rows, key=lambda r: float(r["normalised_score"]))
    called = {label: [r["decision"] == "1" for r in rows if r["label"] == label] for label in "01"}
    assert results["false_alarm_rate"] == sum(called["0"]) / 3 and results["detection_rate"] == sum(called["1"]) / 3
    hits, alarms = sum(called["1"]), sum(called["0"])
    assert results["image_f1"] == pytest.approx(2 * hits / (hits + alarms + 3))
    assert 0 <= results["pixel_f1"] <= 1 and results["decision_source"] == "calibration"
    assert results["decision_images"] == results["n_calibration"] > 0
    assert results["n_train"] + results["n_calibration"] == 8
    assert results["false_alarms_promised"] == pytest.approx(1 / (results["n_calibration"] + 1))


def test_pixel_f1_is_that_of_the_pixels(start, tiny_mvtec):
    """Counted again from maps and masks at the size of the test."""
    from kdad import load
    from kdad.data.masks import decode_mask, find_anomalous_pixels, resize_mask

    results, folder = start("model=rd")
    detector = load(folder)
    hits = alarms = anomalous = 0
    for path in sorted(tiny_mvtec.glob("tile/test/*/*.png")):
        above = torch.from_numpy(detector(path).map > results["pixel_threshold"])
        truth = torch.zeros(64, 64, dtype=torch.bool)
        if path.parent.name != "good":
            mask = tiny_mvtec / "tile/ground_truth/square" / f"{path.stem}_mask.png"
            truth, _ = resize_mask(*find_anomalous_pixels(decode_mask(mask), "binary", mask, path)[:1], 64, False)
        hits, alarms, anomalous = (
            hits + (above & truth).sum().item(), alarms + (above & ~truth).sum().item(), anomalous + truth.sum().item()
        )  # fmt: skip
    assert results["pixel_f1"] == pytest.approx(2 * hits / (hits + alarms + anomalous))


def test_only_good_parts_exist_yet(command, tiny_mvtec, tmp_path):
    """Trained, its false alarms reported where there are images for that, and a detector that predicts."""
    from kdad import load

    shutil.copytree(tiny_mvtec / "tile/train/good", tmp_path / "parts/normal")
    own = ("dataset=folder", "dataset.root=parts", "dataset.anomalous=null")
    for number, more in enumerate(((), ("dataset.test_fraction=0",))):
        assert command("model=rd", *own, *SMALL, *more, f"hydra.run.dir=run{number}") == 0
        results = json.loads((tmp_path / f"run{number}/results.json").read_text())
        assert results["status"] == "ok" and results["image_auroc"] is None is results["detection_rate"]
        assert results["image_auroc_reason"] == "no anomalous image in the test set"
        assert (results["false_alarm_rate"] is None) == bool(more) and results["image_threshold"] > 0
        assert load(tmp_path / f"run{number}")(tmp_path / "parts/normal/000.png").is_anomalous in (True, False)


# Frozen, and what a checkpoint holds ---------------------------------------------------------------------------


def checkpoint(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_checkpoint_holds_the_student_and_recognises_the_teacher(start, monkeypatch):
    from kdad.engine import job as module

    built, before = [], {}
    build = module.build

    def watched(cfg, **keywords):
        built.extend(build(cfg, **keywords))
        before.update({k: v.clone() for k, v in built[1].teacher.state_dict().items()})
        return built

    monkeypatch.setattr(module, "build", watched)
    results, folder = start("trainer.max_epochs=2")
    detector = built[1]
    # Parameters and batch-norm buffers are bit-identical after training.
    assert before and all(torch.equal(before[k], v) for k, v in detector.teacher.state_dict().items())

    saved = checkpoint(folder)
    assert saved["state_dict"].keys() == {k for k in detector.state_dict() if not k.startswith("teacher.")}
    assert saved["teacher"] == {
        "backbone": "test_resnet.r160_in1k", "fingerprint": results["weights_fingerprint"], "levels": "layer1 layer2 layer3",
    }  # fmt: skip

    trained = {k: v.clone() for k, v in detector.state_dict().items()}
    for parameter in detector.decoder.parameters():
        torch.nn.init.zeros_(parameter.data)
    detector.on_load_checkpoint(saved)
    detector.load_state_dict(saved["state_dict"])
    assert all(torch.equal(trained[k], v) for k, v in detector.state_dict().items())

    torch.manual_seed(99)
    other = build(module.OmegaConf.create(checkpoint(folder)["kdad"]["config"] | {"seed": 1}))[1]
    with pytest.raises(UserError, match=f"fingerprint {results['weights_fingerprint']}"):
        other.on_load_checkpoint(checkpoint(folder))


def test_a_run_folder_may_be_reached_by_a_link(start, tmp_path):
    """As where a home has a link to a larger disk. The best weights are noted by a path that Lightning resolves."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    given = ("val_fraction=0.25", "monitor=val_loss")
    results, folder = start(*given, folder="link")
    assert results["status"] == "ok" and (tmp_path / "disk/checkpoints/best.ckpt").is_file()
    assert RunFolder(folder).checkpoint("best") in RunFolder(folder).list_written()
    again, _ = start(*given, folder="link")
    assert again["image_auroc"] == results["image_auroc"]
