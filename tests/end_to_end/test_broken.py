"""The short forms of `experiments/trust`: commands killed at random moments, and damaged and forged files."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TRUST = Path(__file__).parents[2] / "experiments/trust"


def run(script, *arguments):
    """In a process of its own, which forks, and sets limits."""
    found = subprocess.run([sys.executable, TRUST / script, *arguments], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-2000:]
    return found.stdout


def test_killed_at_any_moment_nothing_truncated_is_believed():
    """By SIGKILL, SIGTERM, a full disk and one that turns read-only: it goes on to what it would have come to."""
    assert "0 violations" in run("kills.py", "deaths=5", "seed=5", "commands=run,predict")


def test_damaged_and_forged_files_are_refused_or_skipped():
    assert "0 faults" in run("mutations.py", "files=60", "seed=7")
