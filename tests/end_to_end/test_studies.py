"""The studies: each sweeps what its head says, on any data set, and its runs stand side by side in report and figure."""

import re

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from kdad.report.study import make_study_report
from kdad.results.read import read_runs
from kdad.settings.checks import check_configuration
from kdad.settings.compose import CONF, list_choices
from tests.end_to_end.test_experiments import TINY, compose

STUDIES = {
    "contamination": "dataset.contamination", "shots": "dataset.shots", "training_size": "dataset.train_fraction",
    "image_size": "image_size",
}  # fmt: skip


def list_jobs(name):
    swept = compose(f"+experiment=studies/{name}", return_hydra_config=True).hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in swept.items()])
    return BasicSweeper.split_arguments(parsed, None)[0]


def test_all_are_there():
    assert {name for name in list_choices("experiment") if name.startswith("studies/")} == {
        f"studies/{n}" for n in STUDIES
    }


@pytest.mark.parametrize("name", STUDIES)
def test_the_head_says_what_it_sweeps(name):
    text = (CONF / "experiment/studies" / f"{name}.yaml").read_text()
    assert f"# python -m kdad.run -m +experiment=studies/{name} dataset=" in text
    jobs, levels = re.search(
        r"^# Jobs: (\d+) = (\d+) \w+ x 3 seeds, of each detector and category$", text, re.M
    ).groups()
    assert len(list_jobs(name)) == int(jobs) == 3 * int(levels)
    assert f"kdad.figures trend <sweep> --key {STUDIES[name]}" in text


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("model", ["rd", "stpm", "mkd", "dskd"])
def test_it_composes_for_every_detector(name, model):
    jobs = list_jobs(name)
    for job in (jobs[0], jobs[-1]):
        cfg = compose(f"+experiment=studies/{name}", f"model={model}", "dataset=mvtec", "category=grid", *job)
        check_configuration(cfg, "run")
        assert name != "shots" or (cfg.val_fraction, cfg.monitor) == (0, None)


@pytest.mark.training
def test_runs_of_a_study_are_rows_of_a_report(command, tiny_mvtec, tmp_path):
    tiny = [o for o in TINY if not o.startswith("cache")]
    call = [
        "-m",
        "+experiment=studies/contamination",
        "model=stpm",
        "dataset=mvtec",
        f"dataset.root={tiny_mvtec}",
        *tiny,
    ]
    call += ["category=tile", "seed=0", "dataset.contamination=0,0.2", "dataset.max_contamination=0.2"]
    assert command(*call, "dataset.train_fraction=0.5", "hydra.sweep.dir=study") == 0
    runs = read_runs([tmp_path / "study"])
    assert list(runs["n_test"]) == [runs["n_test"].iloc[0]] * 2 and runs["n_train"].is_monotonic_increasing
    settings = [row[2] for row in make_study_report(runs).tables[0].rows]
    assert [s.rpartition("contamination=")[2] for s in settings] == ["0", "0.2"]
