"""The story of own pictures, command by command as printed, with settings so small that it takes a minute."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import COMMANDS, start

PAGE = "docs/own_pictures.md"
JUDGED = 44  # every second normal one of the test's 40, 12 scratches and 12 holes
TINY = ["image_size=64", "trainer.max_epochs=1", "trainer.accelerator=cpu", "+trainer.limit_train_batches=2"]


def shrink(command):
    """Return the arguments of a command, with those that make it small."""
    if command.verb != "run":
        return command.arguments
    given = {word.partition("=")[0] for word in TINY}
    return [word for word in command.arguments if word.partition("=")[0] not in given] + TINY


@pytest.mark.slow
def test_the_story_runs_as_printed(lite0, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    commands = [command for command in COMMANDS if command.page == PAGE]
    assert len(commands) > 15
    for command in commands:
        if command.words[0] == "mkdir":
            Path(command.words[1]).mkdir()
        elif command.words[0] == "cp":
            *sources, target = command.words[2:]
            for source in sources:  # as cp -r: into a folder that is there, else under that name
                place = Path(target, Path(source).name) if Path(target).is_dir() else Path(target)
                shutil.copytree(source, place)
        else:
            assert not start(command.verb, shrink(command)), (str(command), capsys.readouterr().err)
    results = json.loads(Path("first/results.json").read_text())
    assert results["status"] == "ok" and 0 <= results["pro"] <= 1 and results["false_alarm_rate"] is not None
    with open("judged/scores.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == JUDGED
    assert len(list(Path("judged/overlays").rglob("*.png"))) == JUDGED
    assert len(list(Path("study").glob("*/results.json"))) == 4
    for name in (
        "report.html",
        "first/checkpoints/tested.calibrated.onnx",
        "first/checkpoints/tested.calibrated.whole.ckpt",
        "figures",
    ):
        assert Path(name).exists(), name
