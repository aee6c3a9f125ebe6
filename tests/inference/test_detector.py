"""A trained detector applied: the test phase's own numbers, at a picture's own coordinates, without side effects."""

import json
import math
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kdad
from kdad.errors import UserError
from kdad.inference.detector import Detector
from kdad.inference.files import read_checkpoint
from kdad.inference.trained import build_trained
from tests.inference.trained import MODELS, SIZE, train

LOW, HIGH, LEFT, RIGHT = slice(0, 60), slice(60, 120), slice(0, 100), slice(100, 200)
CORNERS = [(HIGH, LEFT), (LOW, LEFT), (LOW, RIGHT), (HIGH, RIGHT)]  # the marked one first


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory):
    """The folder of a tiny run of each detector."""
    return train(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def rd(tmp_path_factory):
    return train("rd", tmp_path_factory.mktemp("rd"))


def rows(run):
    import csv

    with (run.folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_the_test_phase(run):
    detector = kdad.load(run.folder)
    for row, result in zip(rows(run), detector(row["path"] for row in rows(run)), strict=True):
        assert result.score == pytest.approx(float(row["score"]), rel=1e-6)
        assert result.normalised == pytest.approx(float(row["normalised_score"]), rel=1e-6)
        assert result.is_anomalous == (row["decision"] == "1") and result.source == Path(row["path"])
        assert result.map.shape == (SIZE, SIZE) and result.anomaly_map.shape == result.image.size[::-1] == (70, 90)
        assert result.mask.shape == (70, 90) and result.area == result.mask.mean()
        assert result.overlay().size == (90, 70)


def test_a_mark_comes_back_at_its_coordinates(run, tmp_path):
    """Where two pictures differ, there their maps differ, also in one that is turned by its EXIF."""
    detector = kdad.load(run.folder)
    plain = np.full((120, 200, 3), 90, np.uint8)
    marked = plain.copy()
    marked[80:100, 20:40] = (250, 30, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = []
    for name, pixels in (("plain", plain), ("marked", marked)):
        Image.fromarray(np.rot90(pixels)).save(tmp_path / f"{name}.png", exif=exif)
        turned.append(tmp_path / f"{name}.png")
    for before, after in ((detector(plain), detector(marked)), tuple(detector(path) for path in turned)):
        difference = np.abs(after.anomaly_map - before.anomaly_map)
        assert difference.shape == (120, 200)
        here, *mirrored = (difference[rows, columns].mean() for rows, columns in CORNERS)
        assert here > max(mirrored)


def test_calls_from_threads_take_turns(rd):
    detector = kdad.load(rd.folder, batch_size=2)
    paths = [row["path"] for row in rows(rd)]
    expected = [result.score for result in detector(paths)]
    found: dict[int, list[float]] = {}

    def ask(number):
        found[number] = [detector(path).score for path in paths]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == 4 and all(scores == pytest.approx(expected, rel=1e-6) for scores in found.values())


def test_several_are_judged_lazily(rd):
    detector, asked = kdad.load(rd.folder, batch_size=2), []

    def pictures():
        for row in rows(rd):
            asked.append(row)
            yield row["path"]

    results = detector(pictures())
    assert not asked
    next(results)
    assert len(asked) == 2


def test_a_normal_picture_just_below_the_threshold_is_captioned_below_a_half(rd, monkeypatch):
    """Rounded to two digits it would read 0.50, as an anomalous one does."""
    said = []
    monkeypatch.setattr("kdad.inference.overlay.draw_overlay", lambda *given: said.append(given[3]))
    result = kdad.load(rd.folder)(rows(rd)[0]["path"])
    image = result.decision.image
    for share in (0.498, 0.503):
        away = 2 * share - 1  # the map onto (0, 1) solved for the score
        result.score = image.threshold + image.unit * away / (1 - abs(away))
        result.overlay()
    assert said == ["0.49 normal", "0.50 anomalous"]


def test_nothing_of_the_process_changes(rd):
    before, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()
    files = sorted(rd.folder.rglob("*"))
    kdad.load(rd.folder)(rows(rd)[0]["path"])
    assert torch.equal(before, torch.get_rng_state()) and (drawn == np.random.get_state()[1]).all()
    assert sorted(rd.folder.rglob("*")) == files


def test_importing_kdad_imports_nothing_heavy():
    code = "import sys, kdad; print(sorted(m for m in ('torch', 'numpy', 'hydra', 'timm') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert {"load", "Detector", "Result"} <= set(kdad.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        kdad.nothing


def test_nothing_is_imported_that_no_detector_uses(rd):
    """Above all not Lightning, whose torchmetrics takes as long as torch itself: only training needs it."""
    unused = [
        "hydra",
        "wandb",
        "pandas",
        "skimage",
        "tensorboard",
        "kdad.metrics",
        "kdad.engine",
        "kdad.data.base",
        "scipy.io",
        "scipy.signal",
        "pytorch_lightning",
        "lightning_fabric",
        "torchmetrics",
    ]
    code = (
        f"import sys, kdad; kdad.load({str(rd.folder)!r})({rows(rd)[0]['path']!r}); "
        f"print({{*{unused}}} & set(sys.modules)); import wandb; print(wandb.__name__)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert said == ["set()", "wandb"]


def change(run, tmp_path, edit):
    content = read_checkpoint(run.checkpoint)
    edit(content)
    torch.save(content, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


def test_code_that_nobody_vouched_for_is_not_run(rd, tmp_path):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    sys.path.insert(0, str(tmp_path))
    try:
        for target, said in (
            ("evil_module.Detector", "would run code of the module evil_module"),
            ("os.system", "os.system is no detector"),
            ("kdad.models.rd.os.system", "cannot be imported"),
            ("kdad.errors.UserError", "is no detector"),
            ("RD", "would run code"),
        ):
            path = change(rd, tmp_path, lambda c, t=target: c["kdad"]["config"]["model"].update(_target_=t))
            with pytest.raises(UserError, match=said):
                kdad.load(path)
        assert not (tmp_path / "ran").exists()
        path = change(rd, tmp_path, lambda c: c["kdad"]["config"]["model"].update(_target_="evil_module.Detector"))
        with pytest.raises(UserError, match="cannot be imported"):
            kdad.load(path, plugins=["evil_module"])
        assert (tmp_path / "ran").exists()
    finally:
        sys.path.remove(str(tmp_path))


def test_files_that_are_no_detector(rd, tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"text")
    with pytest.raises(UserError, match="cannot be read as a checkpoint of plain values"):
        kdad.load(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="no checkpoint. Give a run's folder"):
        kdad.load(tmp_path)
    with pytest.raises(UserError, match="does not say how to build"):
        kdad.load(change(rd, tmp_path, lambda c: c["kdad"].pop("config")))
    with pytest.raises(UserError, match="the decision in this checkpoint cannot be read"):
        kdad.load(change(rd, tmp_path, lambda c: c["kdad"].update(decision={"rule": "max"})))
    with pytest.raises(UserError, match="device=nowhere"):
        kdad.load(rd.folder, device="nowhere")
    path = change(rd, tmp_path, lambda c: c["kdad"].update(version="7.3.0"))
    with pytest.warns(UserWarning, match="made by kdad 7.3.0"):
        kdad.load(path)


def spoil(number):
    """Put a number, or a type, into the first of a checkpoint's weights."""

    def edit(content):
        name = next(name for name in content["state_dict"] if name.endswith("weight"))
        value = content["state_dict"][name].clone()
        content["state_dict"][name] = value.to(number) if isinstance(number, torch.dtype) else value.fill_(number)

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (spoil(math.nan), "weight holds NaN or infinity"),
        (spoil(torch.int32), "weight holds no numbers of its type, torch.float32"),
        (spoil(torch.complex64), "weight holds no numbers of its type, torch.float32"),
        (lambda c: c["kdad"]["config"].update(image_size="64"), "image_size='64', where a whole number of pixels"),
        (lambda c: c["kdad"]["config"].update(tiling={"size": -1, "overlap": 0}), "tiling.size=-1"),
        (lambda c: c["kdad"]["decision"].update(n_images=10**400), "decision in this checkpoint cannot be read"),
        (lambda c: c["kdad"]["decision"].update(n_images=-5), "decision in this checkpoint cannot be read"),
        (lambda c: c["kdad"].update(tested_epoch=None), "of its making cannot be read"),
        (lambda c: c.update(epoch="x"), "of its making cannot be read"),
        (lambda c: c.update(epoch=10**30), "of its making cannot be read"),
    ],
)  # fmt: skip
def test_values_that_make_no_detector_are_refused(rd, tmp_path, edit, said):
    """NaN is below any threshold, so that all parts would pass."""
    with pytest.raises(UserError, match=re.escape(said)):
        kdad.load(change(rd, tmp_path, edit))


def test_a_score_of_nan_is_no_verdict(rd, monkeypatch):
    """As half precision can come to with weights that are finite."""
    detector, path = kdad.load(rd.folder), rows(rd)[0]["path"]
    judge = detector.network.judge
    monkeypatch.setattr(
        detector.network, "judge", lambda batch: judge(batch)._replace(image_score=torch.tensor([math.nan]))
    )
    with pytest.raises(UserError, match=re.escape(f"{path} is NaN or infinite")):
        detector(path)


def test_the_weights_of_another_teacher_are_refused(rd, tmp_path):
    from kdad.teacher import Teacher

    torch.manual_seed(5)
    other = Teacher("test_resnet.r160_in1k", pretrained=False, levels=[1, 2, 3], image_size=SIZE)
    torch.save(other.body.state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="Use the same backbone, weights and levels"):
        kdad.load(rd.checkpoint, weights=str(tmp_path / "other.pth"))


def test_a_checkpoint_without_thresholds_gives_scores_alone(rd, tmp_path):
    detector = kdad.load(change(rd, tmp_path, lambda c: c["kdad"].update(decision=None)))
    result = detector(rows(rd)[0]["path"])
    assert result.score == pytest.approx(float(rows(rd)[0]["score"]), rel=1e-6) and result.normalised is None
    assert result.is_anomalous is None and result.mask is None and result.area is None
    with pytest.raises(UserError, match="kdad calibrate"):
        result.overlay()


def test_a_checkpoint_that_holds_its_teacher(rd, tmp_path, command_line):
    """It needs no other file: where the teacher's weights are gone, it gives the same scores."""
    assert (
        command_line("export", "format=checkpoint", f"ckpt_path={rd.folder}", f"output={tmp_path / 'whole.ckpt'}") == 0
    )
    assert (
        command_line("export", "format=checkpoint", f"ckpt_path={rd.folder}", f"output={tmp_path / 'whole.ckpt'}") == 2
    )  # there already
    weights = rd.weights.rename(rd.weights.with_suffix(".away"))
    try:
        with pytest.raises(UserError, match="no such file"):
            kdad.load(rd.folder)
        detector = kdad.load(tmp_path / "whole.ckpt")
        assert detector(rows(rd)[0]["path"]).score == pytest.approx(float(rows(rd)[0]["score"]), rel=1e-6)
        assert build_trained(tmp_path / "whole.ckpt")[0].teacher.source == "the checkpoint"
        out = f"hydra.run.dir={tmp_path / 'evaluated'}"
        assert command_line("evaluate", f"ckpt_path={tmp_path / 'whole.ckpt'}", out) == 0
        results = json.loads((tmp_path / "evaluated/results.json").read_text())
        assert results["image_auroc"] == json.loads((rd.folder / "results.json").read_text())["image_auroc"]
    finally:
        weights.rename(rd.weights)


def test_a_command_line_that_would_run_code_is_refused(rd, tmp_path, command_line, capsys):
    for override in ("model._target_=os.system", "hydra.searchpath=[file:///tmp]", "+x={_target_:os.system}"):
        path = change(rd, tmp_path, lambda c, o=override: c["kdad"]["overrides"].append(o))
        assert command_line("evaluate", f"ckpt_path={path}", f"hydra.run.dir={tmp_path / 'x'}") == 2
        assert "could run code" in capsys.readouterr().err


def test_good_pictures_before_a_bad_one_are_judged(rd, tmp_path):
    detector, good = kdad.load(rd.folder), str(rd.pictures / "normal/0.png")
    results = detector([good, good, str(tmp_path / "nope.png"), good])
    assert next(results).score == next(results).score
    with pytest.raises(UserError, match="nope.png"):
        next(results)


def test_what_no_detector_can_do_is_refused(rd):
    for words, wrong in (
        ("batch_size=0", lambda: kdad.load(rd.folder, batch_size=0)),
        ("trainer.precision=half", lambda: Detector(kdad.load(rd.folder).network, None, "half")),
        ("device=meta", lambda: kdad.load(rd.folder, device="meta")),
    ):
        with pytest.raises(UserError, match=words):
            wrong()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("teacher", "x"),
        ("state_dict", [1]),
        ("kdad", [1]),
        ("decision", {"image_threshold": 1.0}),
        ("model", "${nope.y}"),
        ("parts", {"train": True}),
        ("parts", {"train": "one.png"}),
        ("overrides", [1.5]),
    ],
)
def test_what_is_no_checkpoint_of_kdads_is_an_error(rd, tmp_path, key, value):
    content = torch.load(rd.checkpoint, weights_only=True)
    if key == "decision":
        content["kdad"]["decision"] = value
    elif key == "model":
        content["kdad"]["config"]["model"]["sigma"] = value
    elif key in ("parts", "overrides"):
        content["kdad"][key] = value
    else:
        content[key] = value
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=r"odd\.ckpt|kdad calibrate"):
        kdad.load(tmp_path / "odd.ckpt", weights=str(rd.weights))


def test_arrays_of_another_byte_order_and_of_bools(rd):
    detector = kdad.load(rd.folder)
    values = np.random.default_rng(0).integers(0, 2**16, (70, 90), np.uint16)
    assert detector(values.astype(">u2")).score == detector(values).score
    assert detector(values > 2**15).score == detector(((values > 2**15) * 255).astype(np.uint8)).score
