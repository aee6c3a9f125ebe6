"""plan=true: what a sweep would take, without running it."""

import pytest

from tests.end_to_end.test_command_line import options
from tests.processes import run_module

MODELS = ("rd", "stpm")


def read_rows(said):
    """The cells of the table: one list a row."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]


def read_seconds(cell):
    number, unit = cell.rsplit(" - ")[-1].split()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def list_options(tiny_mvtec, *more):
    given = [text for text in options(tiny_mvtec) if not text.startswith("model=")]
    return [
        "-m",
        *given,
        f"model={','.join(MODELS)}",
        "seed=0,1",
        "trainer.max_epochs=1",
        "hydra.sweep.dir=sweep",
        *more,
    ]


@pytest.mark.slow
def test_a_sweep_is_priced_and_takes_that_much(tiny_mvtec, tmp_path):
    """Each detector has its jobs and its price; nothing is left. Then the sweep runs: disk is right, time roughly."""
    plan = run_module("kdad.run", list_options(tiny_mvtec, "plan=true"), tmp_path)
    assert plan.returncode == 0, plan.stderr
    rows = read_rows(plan.stdout)
    assert [row[:3] for row in rows] == [[model, "mvtec", "2"] for model in MODELS], plan.stdout
    seconds, memory, disk = ([read(row[i]) for row in rows] for i, read in ((4, read_seconds), (5, float), (6, float)))
    assert min(seconds) > 0 and all(0.2 < peak < 10 for peak in memory)
    assert "In turn on this machine: " in plan.stdout and "measured with random ones" not in plan.stdout
    assert not list(tmp_path.iterdir())

    done = run_module("kdad.run", list_options(tiny_mvtec), tmp_path)
    assert done.returncode == 0, done.stderr
    for row, model in enumerate(MODELS):
        left = [path.stat().st_size for job in (2 * row, 2 * row + 1) for path in (tmp_path / f"sweep/{job}").rglob("*")
                if path.is_file()]  # fmt: skip
        assert disk[row] == pytest.approx(sum(left) / 2**30, rel=0.05, abs=0.001), model

    plan = run_module("kdad.run", list_options(tiny_mvtec, "plan=true", "skip_done=true"), tmp_path)
    assert "Nothing to do: 4 done already" in plan.stdout, plan.stderr


def test_what_a_run_would_refuse_is_refused(tiny_mvtec, tmp_path):
    for argument, said in (
        ("batch_size=0", "batch_size=0: give a whole number"),
        ("dataset.root=nowhere", "nowhere"),
        ("+sweep=optuna", "Price one of them"),
    ):
        plan = run_module("kdad.run", list_options(tiny_mvtec, "plan=true", argument), tmp_path)
        assert plan.returncode == 2 and said in plan.stderr, plan.stderr
        assert "Traceback" not in plan.stderr and not list(tmp_path.iterdir())
