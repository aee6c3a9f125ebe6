"""What the page on extending prints works as printed, with what is typed there, in a folder of one's own."""

import json
import re

import pytest

from tests.docs.blocks import COMMANDS, ROOT, read_blocks
from tests.docs.conftest import lay_out_mvtec
from tests.processes import run_module

SHORT = ("image_size=64", "trainer.max_epochs=2", "trainer.accelerator=cpu", "pictures=0")


def find_printed(*words):
    """Return the arguments of the page's only command with these words."""
    found = [c for c in COMMANDS if c.page == "docs/extending.md" and set(words) <= set(c.words)]
    assert len(found) == 1
    return found[0].arguments


def run_printed(verb, place, arguments, *more):
    """Run a command as printed, but for the folder of results; `more` makes it shorter. Return its output."""
    arguments = [word for word in arguments if not word.startswith("hydra.run.dir=")]
    result = run_module(f"kdad.{verb}", [*arguments, *more], place)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def data(at_printed, monkeypatch):
    monkeypatch.delenv("KDAD_DATA", raising=False)
    return at_printed


@pytest.mark.slow
def test_the_printed_data_set_is_checked_and_trained_on(data, tmp_path):
    said = run_printed("check", data, find_printed("kdad", "check", "dataset=odd"))
    rows = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    for line in ("left", "right"):
        assert [row[1:5] for row in rows if row[0] == line] == [["train", "6", "0", "0"], ["test", "5", "2", "2"]]
    run_printed("run", data, find_printed("kdad", "run", "dataset=odd"), f"hydra.run.dir={tmp_path / 'run'}", *SHORT)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["status"] == "ok" and results["dataset"] == "odd" and results["category"] == "left"
    assert (results["n_train"], results["n_test"]) == (6, 5) and 0 <= results["pro"] <= 1


def test_the_printed_yaml_is_a_data_set(tmp_path, monkeypatch):
    monkeypatch.delenv("KDAD_DATA", raising=False)
    (text,) = [block for block in read_blocks(ROOT / "docs/extending.md", "yaml") if "name: parts" in block]
    (tmp_path / "conf/dataset").mkdir(parents=True)
    (tmp_path / "conf/dataset/parts.yaml").write_text(text)
    lay_out_mvtec(tmp_path / "data/parts/tile")
    said = run_printed("check", tmp_path, find_printed("kdad", "check", "dataset=parts"))
    assert re.search(r"tile +train +\d", said) and re.search(r"tile +test +\d", said)


@pytest.mark.slow
def test_the_printed_metric_is_in_results_and_report(data, tmp_path):
    """Dice at the detector's own threshold is the F1 of pixels that kdad itself reports there."""
    run = tmp_path / "run"
    arguments = find_printed("kdad", "run", "dataset=demo", "model=rd")
    run_printed("run", data, arguments, f"hydra.run.dir={run}", *SHORT)
    results = json.loads((run / "results.json").read_text())
    assert 0 <= results["extra_dice"] <= 1
    evaluate = [word.replace("ckpt_path=run", f"ckpt_path={run}") for word in find_printed("kdad", "evaluate")]
    at_threshold = [word.replace("threshold: 1.5", f"threshold: {results['pixel_threshold']}") for word in evaluate]
    assert at_threshold != evaluate
    found = []
    for name, words in (("same", evaluate), ("own", at_threshold)):
        said = run_printed("evaluate", data, words, f"hydra.run.dir={run / name}")
        found.append(json.loads((run / name / "results.json").read_text()))
        assert f"extra_dice: {found[-1]['extra_dice']:.4f}" in said
    assert found[0]["extra_dice"] == results["extra_dice"] and found[0]["pro"] == results["pro"]
    assert found[1]["extra_dice"] == pytest.approx(found[1]["pixel_f1"], abs=1e-6) and found[1]["pixel_f1"] > 0
    report = [str(run) if word == "run" else word for word in find_printed("kdad", "report")]
    said = run_module("kdad.report.__main__", report, data)
    assert said.returncode == 0, said.stderr
    row = next(line for line in said.stdout.splitlines() if line.startswith("| rd"))
    assert f"{100 * results['extra_dice']:.2f}" in row and f"{100 * results['pro']:.2f}" in row
    assert (
        "dice (%)" in said.stdout and "extra_dice is not the same metric in all runs: _target_=dice.Dice" in said.stdout
    )
