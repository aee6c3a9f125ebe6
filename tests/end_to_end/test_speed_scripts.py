"""The scripts behind `make bench` and the pages on speed run: on small pictures, once, for no figure."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from kdad.engine.build import fingerprint_data
from kdad.engine.finished import find_done
from kdad.engine.run_folder import RunFolder
from kdad.figures.__main__ import keep_drawable
from kdad.results.read import read_runs
from kdad.results.series import read_scores
from kdad.settings.compose import compose, resolve
from kdad.settings.roles import config_hash

pytestmark = pytest.mark.training
SCRIPTS = Path(__file__).parents[2] / "experiments/speed"
SMALL = "backbone.name=test_resnet.r160_in1k", "image_size=32"


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its name, as Python does beside the other scripts."""
    threads, known = torch.get_num_threads(), set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == SCRIPTS:
            del sys.modules[name]


def test_a_run_is_timed_in_its_parts(script, tiny_mvtec):
    runs = script("runs")
    setting = runs.Setting("stpm", "mvtec/tile", str(tiny_mvtec), epochs=2, threads=1, batch_size=4)
    found = runs.kdad(setting, *SMALL, "cache.storage=memory")
    assert len(found["epochs"]) == 2 and found["teacher_images"] == found["n_train"] + found["n_test"] > 0
    assert 0 < found["prepare"] < found["epochs"][0] + found["test"] and sum(found["epochs"]) < found["whole"]
    assert 0 < found["metrics"] < found["test_warm"] < found["test"] < found["whole"] and found["cache_mib"] > 0
    bare = runs.bare(setting, *SMALL, "cache.storage=off")
    assert bare["n_train"] == found["n_train"] and len(bare["epochs"]) == 2
    table = script("peers").timing_table("stpm", [{"side": side, **found} for side in ("kdad", "anomalib")])
    assert table.count("| 1.00 |") == 7  # beside itself
    growth, points = script("growth"), {"10": [found], "20": [found]}
    grown = {"images": points, "size": points, "levels": points, "sweep": [[found] * 4]}
    assert "| a warm epoch | 0.00 | 0.00 | 0.00 | 0.00 |" in growth.table(grown).replace("-", "")
    assert len(growth.draw(grown).axes) == 4


def test_epochs_steps_and_pictures_are_timed(script, tiny_mvtec, monkeypatch, capsys):
    core, steps = script("core"), script("steps")
    full = core.configuration
    data = "dataset=mvtec", "category=tile", f"dataset.root={tiny_mvtec}"
    small = lambda model, *more: full(model, *more, *SMALL, *(data if "dataset=demo" in more else ()))  # noqa: E731
    for module in (core, steps):
        monkeypatch.setattr(module, "configuration", small)
        monkeypatch.setattr(module, "BATCH", {"stpm": 4})
    monkeypatch.setattr(steps, "CASES", (("rd", 32, 2, False),))
    core.epochs("32-true", 2)
    core.inference(1)
    core.pictures(1)
    steps.variants(1)
    steps.profile(1)
    steps.faults(1)
    said = capsys.readouterr().out
    assert all(
        word in said for word in ("kdad / bare", "forward / networks", "with 64", "Adam not fused", "page faults")
    )


def test_the_runs_that_reports_are_timed_on_are_found_done_and_drawn(script, tmp_path):
    thousand, data, sweep = script("thousand"), tmp_path / "data", tmp_path / "sweep"
    thousand.make_data(data)
    assert thousand.make_runs(sweep, data, ["grid"], 2) == 8
    runs = read_runs([sweep])
    assert list(runs["status"]) == ["ok"] * 8 and set(runs["seed"]) == {0, 1} and runs["mad"].between(0.8, 1).all()
    assert len(keep_drawable(runs, ["image", "pixel", "pro"])) == 8 and all(
        len(read_scores(run)) for _, run in runs.iterrows()
    )
    cfg = compose("model=dskd", "dataset=mvtec", f"dataset.root={data}", "category=grid", "seed=1")
    done = find_done(RunFolder(tmp_path / "new"), config_hash(resolve(cfg)), [sweep], fingerprint_data(cfg))
    assert done.read()["model"] == "dskd" and done.read()["seed"] == 1
