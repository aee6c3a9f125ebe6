"""Jobs at once on a machine with several GPUs have one each."""

import os
import subprocess
import sys

import pytest

from kdad.engine import devices

CHILD = """
import os, sys
from kdad.engine.devices import take_device
print(take_device({"devices": 1}), os.environ["CUDA_VISIBLE_DEVICES"], take_device({"devices": 1}), flush=True)
sys.stdin.read()
"""


def start(tmp_path, visible):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible, "TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", CHILD], env=environment, **pipes)


def test_each_process_has_one_and_a_dead_one_none(tmp_path):
    """A process keeps its own; of more processes than GPUs the last is left all; who ends lets go."""
    first, second = start(tmp_path, "2,5"), None
    assert first.stdout.readline().split() == ["2", "2", "None"]  # asked again, there is no choice any more
    second = start(tmp_path, "2,5")
    assert second.stdout.readline().split() == ["5", "5", "None"]
    third = start(tmp_path, "2,5")
    assert third.stdout.readline().split() == ["None", "2,5", "None"]
    first.kill()
    first.wait()
    fourth = start(tmp_path, "2,5")
    assert fourth.stdout.readline().split()[0] == "2"
    for process in (second, third, fourth):
        process.communicate()


@pytest.mark.parametrize(
    ("visible", "trainer"),
    [
        ("3", {"devices": 1}),
        ("", {"devices": 1}),
        ("0,1", {"devices": 2}),
        ("0,1", {"devices": 1, "accelerator": "cpu"}),
    ],
)
def test_where_there_is_no_choice_nothing_is_taken(monkeypatch, visible, trainer):
    monkeypatch.setenv(devices.VISIBLE, visible)
    assert devices.take_device(trainer) is None and os.environ[devices.VISIBLE] == visible


def test_without_the_variable_gpus_are_counted(monkeypatch, tmp_path):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setattr(devices, "DEV", tmp_path)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert devices.list_devices() == ["0", "1"]
