"""A command that only helps or refuses imports nothing heavy: it answers at once, also while one types and presses TAB."""

import json
import os
import subprocess
import sys

import pytest

from kdad.__main__ import PACKAGES, VERBS

HEAVY = {"torch", "torchvision", "torchmetrics", "timm", "pytorch_lightning", "wandb", "pandas", "matplotlib", "scipy"}
TABLES = {"report": {"pandas"}, "figures": {"pandas", "scipy", "matplotlib"}}  # which are made of these
ABSENT = ["dataset=mvtec", "dataset.root=/nowhere", "category=screw"]
MOST = 1000  # modules, of Python, NumPy, Hydra and Rich; torch alone has about as many, Lightning four times that
EVERY = "kdad.engine.launch"  # what every command begins by importing
SERVER = f"""
import json, os, runpy, sys
import {EVERY}

print(*sys.modules, flush=True)
for line in sys.stdin:
    if not (child := os.fork()):
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
folder, environment, module, sys.argv[1:] = json.loads(line)
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
for number, path in enumerate((os.devnull, "out.txt", "err.txt")):
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
sys.path.insert(0, folder)
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    open("modules.txt", "w").write(" ".join(sys.modules))
"""


@pytest.fixture(scope="module")
def server():
    """A process that has imported what every command imports and nothing else, and forks: half of each start is saved."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVER], **pipes) as process:
        process.imported = set(process.stdout.readline().split())
        yield process
        process.stdin.close()


@pytest.fixture
def start(server, tmp_path):
    """Run a verb in a process of its own; return how it ended and the modules that it imported."""

    def call(verb, *arguments, **environment):
        module = f"kdad.{verb}.__main__" if verb in PACKAGES else f"kdad.{verb}"
        task = [str(tmp_path), os.environ | environment, module, [*map(str, arguments)]]
        print(json.dumps(task), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        result = subprocess.CompletedProcess(
            task, status, *((tmp_path / f).read_text() for f in ("out.txt", "err.txt"))
        )
        return result, set((tmp_path / "modules.txt").read_text().split())

    return call


def test_the_server_imports_no_more_than_the_commands(server, tmp_path):
    """By a command that is started afresh. A test of what is *not* imported could not fail for want of anything here."""
    code = "import atexit, runpy, sys; atexit.register(lambda: print(*sys.modules, file=open('modules.txt', 'w'))); "
    code += "sys.argv[1:] = ['nonsense=1']; runpy.run_module('kdad.run', run_name='__main__', alter_sys=True)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    modules = set((tmp_path / "modules.txt").read_text().split())
    assert ended.returncode == 2 and "nonsense: no such key" in ended.stderr
    assert server.imported <= modules and not modules & HEAVY and len(modules) < MOST


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_heavy(start, verb):
    result, modules = start(verb, "--help")
    assert result.returncode == 0 and verb in result.stdout, result.stderr
    assert modules & HEAVY == TABLES.get(verb, set())
    assert verb in TABLES or len(modules) < MOST


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("run", ["nonsense=1"], "nonsense: no such key"),
        ("run", ["model=nonsense"], "model=nonsense: no such choice"),
        ("run", ["pictures=-1", "hydra.run.dir=job"], "pictures=-1: give"),
        ("run", ["-m", "pictures=-1", "seed=0,1", "hydra.sweep.dir=sweep"], "2 of the sweep's jobs failed"),
        ("run", ["ckpt_path=absent.ckpt"], "no such file"),
        ("run", ["model.levles=[1]"], "model.levles: no such key"),
        ("run", ["+model.levles=[1]", "hydra.run.dir=job"], "RD takes no such argument"),
        ("run", ["+trainer.max_epoch=1", "hydra.run.dir=job"], "pytorch_lightning.Trainer takes no such argument"),
        ("run", ["trainer.detect_anomaly=true"], "add it by a leading +"),
        ("run", ["+optimizer.beta=1", "hydra.run.dir=job"], "torch.optim.Adam takes no such argument"),
        ("run", [*ABSENT, "hydra.run.dir=job"], "data set mvtec: no folder /nowhere"),
        ("run", [*ABSENT, "hydra.run.dir=job", "skip_done=true"], "data set mvtec: no folder /nowhere"),
        ("run", [*ABSENT, "hydra.run.dir=job", "category=all"], "data set mvtec: no folder /nowhere"),
        ("run", [*ABSENT, "plan=true"], "data set mvtec: no folder /nowhere"),
        ("run", [*ABSENT, "-m", "seed=0,1", "hydra.sweep.dir=sweep"], "2 of the sweep's jobs failed"),
        ("run", ["dataset=folder", "dataset.root=/nowhere", "hydra.run.dir=job"], "data set folder: no folder"),
        ("run", ["backbone.weights=absent.pth", "hydra.run.dir=job"], "absent.pth: no such file"),
        ("evaluate", ["hydra.run.dir=job"], "the checkpoint to test"),
        ("check", ABSENT, "data set mvtec: no folder /nowhere"),
        ("pretrain", ["dataset=mnist", "dataset.source.root=x"], "add it by a leading +"),
        ("evaluate", ["pictures=-1", "hydra.run.dir=job"], "pictures=-1: give"),
        ("predict", ["input=."], "ckpt_path=<run folder>"),
        ("calibrate", ["normal=."], "are needed"),
        ("export", ["nonsense=1"], "nonsense: no such key"),
        ("app", ["port=0"], "ckpt_path=<run folder"),
        ("benchmark", ["backbone=nonsense"], "backbone=nonsense: no such choice"),
        ("check", ["dataset=nonsense"], "dataset=nonsense: no such choice"),
        ("pretrain", ["dataset=nonsense"], "dataset=nonsense: no such choice"),
    ],
)
def test_a_refusal_imports_nothing_heavy(start, verb, arguments, said):
    result, modules = start(verb, *arguments)
    assert result.returncode == 2 and said in result.stderr
    assert not modules & HEAVY and len(modules) < MOST


def test_a_category_that_is_not_there_is_refused_without_anything_heavy(start, tmp_path):
    (tmp_path / "set/screw/train/good").mkdir(parents=True)
    result, modules = start("run", "dataset=mvtec", "dataset.root=set", "category=scrwe", "hydra.run.dir=job")
    assert result.returncode == 2 and "no category scrwe" in result.stderr and "Did you mean screw?" in result.stderr
    assert not modules & HEAVY


def test_another_one_s_results_are_refused_without_anything_heavy(start, tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job/results.json").write_text("of somebody else")
    result, modules = start("run", "hydra.run.dir=job")
    assert result.returncode == 2 and "was not written by kdad" in result.stderr
    assert not modules & HEAVY


def test_a_file_that_is_no_checkpoint_is_refused_with_torch_alone(start, tmp_path):
    (tmp_path / "no.ckpt").write_text("no checkpoint")
    result, modules = start("run", "ckpt_path=no.ckpt")
    assert result.returncode == 2 and "cannot be read as a checkpoint" in result.stderr
    assert modules & HEAVY == {"torch"}


def test_a_refused_job_says_so_in_its_folder(start, tmp_path):
    """Also where it was refused before anything heavy was imported."""
    start("run", "model=stpm", "pictures=-1", "seed=x", "hydra.run.dir=job")
    results = json.loads((tmp_path / "job/results.json").read_text())
    assert "pictures=-1: give a whole number, at least 0" in results["error"]
    assert (results["model"], results["dataset"], results["category"]) == ("stpm", "demo", None)
    assert "seed" not in results  # which was bad itself: a report would take the results for somebody else's


def test_completion_imports_nothing_heavy(start):
    result, modules = start("run", "-sc", "query=bash", COMP_LINE="kdad-run model=")
    assert result.stdout.split() == ["model=dskd", "model=mkd", "model=rd", "model=stpm"], result.stderr
    assert not modules & HEAVY


def test_the_list_of_what_is_cached_imports_nothing_heavy(start, tmp_path):
    result, modules = start("cache", "--folder", tmp_path)
    assert result.stdout.startswith("0 arrays") and not modules & HEAVY
