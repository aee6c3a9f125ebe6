"""Sweeps whose jobs run in other processes: the same results, the same table, the same exit status."""

import json
from importlib.util import find_spec

import pytest

from tests.processes import run_module

pytestmark = pytest.mark.slow
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
    "ray": ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"],  # a cluster on this machine
}
BESIDES = ("seconds", "cache_")  # of results.json: what differs from machine to machine, and from order to order


def sweep(folder, root, *overrides):
    arguments = [
        "-m", "model=rd", "dataset=mvtec", f"dataset.root={root}", "category=tile",
        "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false", "image_size=64",
        "batch_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=none", "seed=0,-1",
        f"hydra.sweep.dir={folder}", *overrides,
    ]  # fmt: skip
    return run_module("kdad.run", arguments, folder.parent, timeout=500)


def read(folder):
    found = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in found.items() if not any(part in key for part in BESIDES)}


@pytest.fixture(scope="module")
def plain(tiny_mvtec, tmp_path_factory):
    """A sweep in turn: what was printed, and its folder."""
    folder = tmp_path_factory.mktemp("plain")
    return sweep(folder, tiny_mvtec), folder


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_in_other_processes_are_as_those_in_turn(plain, tiny_mvtec, tmp_path, launcher):
    if find_spec(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher") is None:
        pytest.skip(f"needs kdad[{'ray' if launcher == 'ray' else 'launchers'}]")
    in_turn, folder = plain
    found = sweep(tmp_path / "found", tiny_mvtec, *LAUNCHERS[launcher])
    assert read(tmp_path / "found/0") == read(folder / "0")
    scores = [(place / "0/scores.csv").read_bytes() for place in (tmp_path / "found", folder)]
    assert scores[0] == scores[1]
    for done in (in_turn, found):
        assert done.returncode == 2
        assert "1 of the sweep's jobs failed" in done.stderr and "seed=-1: give a whole number" in done.stderr
        table = done.stdout[done.stdout.index("The sweep's jobs") :]
        assert table.index("seed=0") < table.index("seed=-1") < table.index("failed: ")
    assert not list((tmp_path / "found").glob(".kdad_jobs*"))
