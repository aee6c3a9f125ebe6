"""What the page on extending prints works as printed, with what is typed there, in a folder of one's own."""

import json
import re

import pytest

from tests.docs.blocks import COMMANDS
from tests.processes import run_module

TINY = (
    "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false", "image_size=64",
    "batch_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu",
)  # fmt: skip


def find_printed(*words):
    """Return the arguments of the page's only command with these words."""
    found = [c for c in COMMANDS if c.page == "docs/extending.md" and set(words) <= set(c.words)]
    assert len(found) == 1
    return found[0].arguments


def run_printed(verb, place, arguments, *more):
    """Run a command as printed, of a training one epoch with a teacher of random weights; return its output."""
    if verb == "run":
        arguments = [word for word in arguments if not word.startswith(("backbone=", "hydra.run.dir="))]
        more = (*TINY, *more)
    result = run_module(f"kdad.{verb}", [*arguments, *more], place)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def data(at_printed, monkeypatch):
    monkeypatch.delenv("KDAD_DATA", raising=False)
    return at_printed


def test_the_printed_data_set_is_checked_and_trained_on(data, tmp_path):
    said = run_printed("check", data, find_printed("kdad", "check", "dataset=odd"))
    rows = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    for line in ("left", "right"):
        assert [row[1:5] for row in rows if row[0] == line] == [["train", "6", "0", "0"], ["test", "5", "2", "2"]]
    run_printed("run", data, find_printed("kdad", "run", "dataset=odd"), f"hydra.run.dir={tmp_path / 'run'}")
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["status"] == "ok" and results["dataset"] == "odd" and results["category"] == "left"
    assert (results["n_train"], results["n_test"]) == (6, 5) and 0 <= results["pro"] <= 1
