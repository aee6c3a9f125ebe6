"""The command line in this process."""

import sys
from importlib import import_module

import pytest


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """command_line("predict", "key=value", ...) -> exit status of `kdad predict key=value ...`, in tmp_path."""

    def call(verb, *arguments):
        from kdad.__main__ import PACKAGES

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"kdad {verb}", *arguments])
        try:
            import_module(f"kdad.{verb}.__main__" if verb in PACKAGES else f"kdad.{verb}").main()
        except SystemExit as stopped:
            return stopped.code
        return 0

    return call
