"""What README and docs print exists: verbs, options, targets, extras; and what no test can run as it is, composes.

All others are run in `test_commands_run.py`, and those of the story of own pictures in `test_story.py`.
"""

import copy
import re
import sys
import tomllib
from functools import cache
from importlib import import_module
from types import SimpleNamespace

import pytest
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf._utils import get_yaml_loader

from kdad.__main__ import PACKAGES, VERBS
from kdad.engine import launch
from kdad.figures.__main__ import make_figure_parser
from kdad.report.__main__ import make_report_parser
from kdad.settings.checks import check_configuration
from kdad.settings.compose import compose
from tests.docs.blocks import COMMANDS, PAGES, ROOT

PLAIN = {"report": lambda words: make_report_parser().parse_args(words),
         "figures": lambda words: make_figure_parser().parse_args(words)}  # fmt: skip
SEARCHES = ("+sweep=", "hydra/launcher=")  # which would start processes or many jobs of their own
# Commands of others, and what of them can be looked at here
OTHERS = {
    ".",
    "mkdir",
    "cp",
    "cd",
    "curl",
    "wandb",
    "pre-commit",
    "for",
    "done",
    "python",
    "python3",
    ".venv/bin/python",
}
# Each once, whichever pages have it
OURS = list({(command.verb, *command.arguments): command for command in COMMANDS if command.verb}.values())
HYDRA = [command for command in OURS if command.verb not in (*PLAIN, "cache", "dashboard")]
# What is run in this process, or not at all; the others are run as they are
COMPOSED = [c for c in HYDRA if any(part in str(c) for part in ("launcher", "num_nodes", "+sweep=", "+experiment="))]


def show(command):
    return str(command)[:120]


def test_there_are_commands_of_every_verb():
    assert {command.verb for command in OURS} == set(VERBS)


def test_commands_stand_in_bash_blocks():
    """So that none escapes these tests."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        assert not re.findall(r"^ {4,}(?:python -m kdad|kdad |make |pip ).*", text, re.MULTILINE), page


@cache
def read_yaml(text):
    return yaml.load(text, get_yaml_loader())


@pytest.fixture
def quick(monkeypatch):
    """Hydra composes each configuration once, not twice to find out its mode, and reads each file once."""
    modes = RunMode.MULTIRUN, RunMode.RUN
    monkeypatch.setattr(Hydra, "get_mode", lambda self, **_: modes["-m" not in sys.argv])
    cached = vars(yaml) | {"load": lambda file, Loader: copy.deepcopy(read_yaml(file.read()))}
    monkeypatch.setattr("omegaconf.omegaconf.yaml", SimpleNamespace(**cached))


@pytest.fixture
def last_job(monkeypatch):
    """A sweep is its last job alone."""
    # Hydra imports its plug-ins anew: the class that it starts is not the module's.
    sweeper = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_sweeper.BasicSweeper"]
    split = sweeper.split_arguments
    monkeypatch.setattr(sweeper, "split_arguments", staticmethod(lambda given, size: [split(given, None)[0][-1:]]))


@pytest.fixture
def taken(at_printed, quick, last_job, monkeypatch):
    """taken(command) -> exit status, and the configurations that its jobs would get."""
    configurations = []

    def replace(original):
        def start(job, config_name, *rest, **keywords):
            def note(cfg):
                if job.__name__ == "check_data_set":  # it asks nothing of networks
                    for group in ("model", "backbone", "optimizer", "trainer", "logger"):
                        cfg[group] = {}
                check_configuration(cfg, config_name)
                configurations.append(cfg)
                return 0.0

            return original(note, config_name, *rest, **keywords)

        return start

    def take(command):
        module = import_module(f"kdad.{command.verb}.__main__" if command.verb in PACKAGES else f"kdad.{command.verb}")
        name = "launch" if hasattr(module, "launch") else "launch_without_folder"
        monkeypatch.setattr(module, name, replace(getattr(launch, name)))
        monkeypatch.setattr(sys, "argv", [f"kdad {command.verb}", *command.arguments])
        try:
            module.main()
        except SystemExit as stopped:
            return stopped.code, configurations
        return 0, configurations

    return take


@pytest.mark.parametrize("command", COMPOSED, ids=show)
def test_a_command_composes(command, taken, capsys):
    if any(word.startswith(SEARCHES) for word in command.words):
        words = [word for word in command.arguments if word != "-m" and not word.startswith("optimizer.lr=tag")]
        words = [word for word in words if "," not in word]
        assert compose(*words, hydra_too=True).hydra
        return
    status, configurations = taken(command)
    assert status in (0, None), capsys.readouterr().err
    assert configurations


@pytest.mark.parametrize("command", [c for c in OURS if c.verb in PLAIN], ids=show)
def test_a_command_parses(command):
    PLAIN[command.verb](command.arguments)


@pytest.mark.parametrize("command", [c for c in OURS if c.verb == "cache"], ids=show)
def test_the_cache_is_listed_and_cleared(command, tmp_path, capsys):
    from kdad.cache import main

    main([*command.arguments, "--folder", str(tmp_path)])
    assert "0 arrays" in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in OURS if c.verb == "dashboard"], ids=show)
def test_the_dashboard_is_laid_out(command, capsys):
    pytest.importorskip("wandb_workspaces", reason="needs wandb-workspaces: pip install 'kdad[dashboard]'")
    from kdad.dashboard import main

    main([*command.arguments, "--print"])
    assert "Scores" in capsys.readouterr().out


def test_other_commands_are_known():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in COMMANDS:
        words = command.words
        if command.verb:
            continue
        if words[0] == "make":
            assert set(words[1:]) <= targets, command
        elif "install" in words and "pip" in words:
            extras = re.search(r"\[(.+)\]", words[-1])
            assert set(extras[1].split(",")) <= set(project["optional-dependencies"]), command
        elif "=" not in words[0]:  # not the setting of a variable
            assert words[0].lstrip("./") in {name.lstrip("./") for name in OTHERS}, command
            files = [word for word in words if word.startswith("experiments/")]
            assert all((ROOT / file).exists() for file in files), command


def test_extras_that_pages_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        for named in re.findall(r"kdad\[([\w,]+)\]", page.read_text(encoding="utf-8")):
            assert set(named.split(",")) <= set(extras), (page, named)
