"""The commands of docs/sweeps.md compose."""

import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from kdad.settings.checks import list_bad_keys
from kdad.settings.compose import compose
from kdad.settings.overrides import split

PAGE = (Path(__file__).parents[2] / "docs/sweeps.md").read_text(encoding="utf-8")
LINES = [line.strip().removeprefix("srun ") for line in PAGE.splitlines() if line.startswith("    ")]
COMMANDS = [line for line in LINES if line.startswith("python -m kdad.run") and "..." not in line]


def find_first(text):
    """One override of a sweep's first job."""
    override = OverridesParser.create().parse_override(text)
    return f"{split(text)[0]}={next(override.sweep_string_iterator())}" if override.is_sweep_override() else text


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_it_composes(command):
    given = [word for word in shlex.split(command)[3:] if word != "-m"]
    for name in ("submitit", "joblib"):
        if f"hydra/launcher={name}" in command and find_spec(f"hydra_plugins.hydra_{name}_launcher") is None:
            pytest.skip("needs kdad[launchers]")
    compose(*map(find_first, given), hydra_too=True)
    assert list_bad_keys(compose(*(find_first(word) for word in given if not word.startswith("hydra"))), "run") == {}


def test_the_big_sweep_is_of_180_jobs():
    parser, counts = OverridesParser.create(), []
    for word in shlex.split(COMMANDS[0])[4:]:
        override = parser.parse_override(word)
        counts += [len(list(override.sweep_string_iterator()))] if override.is_sweep_override() else []
    assert counts == [4, 15, 3] and "180 jobs" in PAGE and len(COMMANDS) == 4
