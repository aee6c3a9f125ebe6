"""A metric of one's own through whole runs: beside the others, over epochs, variants, categories and processes."""

import json
import statistics

import pytest

from kdad.errors import UserError
from kdad.evaluate import main as evaluate
from kdad.report.study import make_study_report
from kdad.results.read import expand_metrics, read_runs
from kdad.results.words import name_metric
from tests.end_to_end.test_command_line import options
from tests.processes import run_module

SHARE = "+metrics.extra.share={_target_: tests.plugins.share.Share, threshold: 1.6}"


def drop_times(results):
    return {key: value for key, value in results.items() if not key.startswith("extra_") and "seconds" not in key}


def test_it_stands_beside_the_others_and_moves_none(start):
    plain, without = start("cache.storage=off", folder="without")
    results, folder = start("cache.storage=off", SHARE, "+variants.small={model.sigma: 0}", folder="with")
    assert 0 < results["extra_share"] < 1
    assert (without / "scores.csv").read_bytes() == (folder / "scores.csv").read_bytes()
    assert drop_times(plain) == drop_times(results)
    variant = json.loads((folder / "variants/small/results.json").read_text())
    assert 0 < variant["extra_share"] < 1 and variant["extra_share"] != results["extra_share"]


def test_a_mean_over_epochs(start):
    each = [start(SHARE, f"trainer.max_epochs={n}", folder=str(n))[0]["extra_share"] for n in (1, 2)]
    results, _ = start(SHARE, "trainer.max_epochs=2", "average_epochs=2", folder="mean")
    assert results["extra_share"] == pytest.approx(statistics.fmean(each), abs=1e-7)
    assert results["extra_share_std"] == pytest.approx(statistics.stdev(each), abs=1e-7)


def test_an_evaluation_adds_it_and_the_report_takes_it(start, command, tmp_path, monkeypatch, capsys):
    results, folder = start(folder="run")
    with pytest.raises(UserError, match="--metrics extra_share: no run has it; kdad evaluate .*metrics.extra.share="):
        expand_metrics(["extra_share"], read_runs([folder]))
    given = [f"ckpt_path={folder}", SHARE, "trainer.accelerator=cpu"]
    monkeypatch.setattr("sys.argv", ["kdad evaluate", *given])
    evaluate()
    assert "extra_share: 0." in capsys.readouterr().out
    runs = read_runs([folder])
    assert runs["extra_share"].notna().sum() == 1 and expand_metrics(["all"], runs)[-1] == "extra_share"
    (row,) = make_study_report(runs, ["extra_share", "pro"]).tables[0].rows
    value = runs["extra_share"].max()
    assert (
        name_metric("extra_share") == "share" and f"{100 * value:.2f}" in row and f"{100 * results['pro']:.2f}" in row
    )


@pytest.mark.slow
def test_a_checkpoint_s_own_metric_is_imported_only_where_it_is_asked_for(tiny_mvtec, command, tmp_path, capsys):
    assert command(*options(tiny_mvtec, SHARE, "trainer.max_epochs=1"), f"hydra.run.dir={tmp_path / 'run'}") == 0
    capsys.readouterr()
    for more, status in (((), 2), (("metrics.extra={}",), 0), ((SHARE,), 0), ((SHARE.replace("1.6", "1"),), 0)):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        arguments = [f"ckpt_path={tmp_path / 'run'}", *more, f"hydra.run.dir={out}"]
        ended = run_module("kdad.evaluate", arguments, tmp_path)
        assert ended.returncode == status, ended.stderr
        if status:
            assert "could run code. If you trust it, give that on your own command line" in ended.stderr
        else:
            found = json.loads((out / "results.json").read_text()).get("extra_share")
            assert (found is None) == (more == ("metrics.extra={}",))


@pytest.mark.slow
def test_two_processes_find_what_one_does(tiny_mvtec, tmp_path):
    run = tmp_path / "run"
    arguments = [
        *options(tiny_mvtec, "trainer=ddp", "trainer.devices=2", "batch_size=2", "trainer.max_epochs=1"),
        SHARE,
    ]
    ended = run_module("kdad.run", [*arguments, f"hydra.run.dir={run}"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    arguments = [f"ckpt_path={run}", "trainer=default", SHARE, f"hydra.run.dir={tmp_path / 'one'}"]
    ended = run_module("kdad.evaluate", arguments, tmp_path)
    assert ended.returncode == 0, ended.stderr
    both, one = (json.loads((place / "results.json").read_text()) for place in (run, tmp_path / "one"))
    assert 0 < both["extra_share"] < 1 and both["extra_share"] == pytest.approx(one["extra_share"], abs=1e-6)
