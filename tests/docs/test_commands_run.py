"""Every command that README and docs print is run, on tiny pictures, for one epoch; of a sweep its last job.

Commands are those of `kdad`; where they come in turn is `test_story.py`, what several processes do is in `end_to_end`.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, read_blocks, start
from tests.docs.test_commands import OURS, last_job, show  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow
ELSEWHERE = {  # a part of a command -> the test that runs it
    "trainer.num_nodes=2": "end_to_end/test_ddp.py, as several processes",
    "kdad dashboard": "docs/test_commands.py, as it needs an account",
    "docs/own_pictures.md": "docs/test_story.py, one after the other",
    "extra_dice": "docs/test_extending.py",
    "metrics.extra": "docs/test_extending.py",
    "dataset=odd": "docs/test_extending.py",
    "dataset=parts": "docs/test_extending.py",
    "judged/object": "below, as a block",
}
LAUNCHERS = ("hydra/launcher=", "hydra.launcher.")  # end_to_end/test_launchers.py; here in this process
TINY = {
    "run": ["image_size=64", "trainer.max_epochs=1", "trainer.accelerator=cpu", "+trainer.limit_train_batches=2", "pictures=0"],
    "evaluate": ["overwrite=true"],
    "calibrate": ["overwrite=true"],
    "export": ["overwrite=true"],
    "pretrain": ["image_size=32", "batch_size=8", "trainer.max_epochs=1", "trainer.accelerator=cpu"],
    "benchmark": ["image_size=64", "batch_size=2", "repeats=1", "runtimes=[folded]"],
    "app": ["port=0"],
}  # fmt: skip
TEACHERS = ("backbone=efficientnet_lite0", "backbone.weights=", "ckpt_path=")  # as they are
SMALL_TEACHER = ["backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false"]
RUN = [c for c in OURS if not any(part in str(c) for part in ELSEWHERE)]
BEFORE = {  # what a reader has typed before
    "figures robustness": "evaluate -m ckpt_path=run corruption=blur severity=1,2",
}


def shrink(command, place):
    """Return the arguments of the command with what makes it small, and its results in a folder of the test."""
    words = [word for word in command.arguments if not word.startswith(LAUNCHERS)]
    more = list(TINY.get(command.verb, ()))
    if command.verb == "run" and not any(word.startswith(TEACHERS) for word in words):
        more += SMALL_TEACHER
    if "+sweep=optuna" in words:
        more.append("hydra.sweeper.n_trials=2")
    if command.verb in ("run", "pretrain", "benchmark"):
        more += [f"hydra.sweep.dir={place}" if "-m" in words else f"hydra.run.dir={place}"]
    given = {word.lstrip("+").partition("=")[0] for word in more}
    return [word for word in words if word.partition("=")[0] not in given] + more


@pytest.mark.parametrize("command", RUN, ids=show)
def test_a_command_runs(command, at_printed, last_job, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.delenv("KDAD_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", sys.argv)
    if command.verb == "app":  # it would listen for ever
        pytest.importorskip("gradio", reason="needs gradio: pip install 'kdad[app]'")
        monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    shutil.rmtree("judged", ignore_errors=True)
    for part, before in BEFORE.items():
        if part in str(command):
            verb, *words = shlex.split(before)
            assert start(verb, [*words, "overwrite=true"]) in (0, None), capsys.readouterr().err
    status = start(command.verb, shrink(command, tmp_path / "results"))
    assert status in (0, None), capsys.readouterr().err


def test_the_block_for_the_server_runs(at_printed):
    """By a shell: a loop over run folders, and one folder of all that is sent in."""
    block = next(text for text in read_blocks(ROOT / "docs/use.md", "bash") if "mkdir submission" in text)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", block], cwd=at_printed, capture_output=True, text=True,
        env=os.environ | {"PATH": programs, "KDAD_DATA": str(at_printed / "data")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for kind, file in (("anomaly_images", "000_regular.tiff"), ("anomaly_images_thresholded", "000_regular.png")):
        assert (at_printed / "submission" / kind / "can/test_private" / file).is_file()
