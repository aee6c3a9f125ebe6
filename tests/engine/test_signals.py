"""A signal ends a job with its status, after the epoch; a second one at once.

Each is raised in a process of its own, so that one that is not handled ends no other test.
"""

import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdad.engine.signals import Ended

START = """
import signal, sys, time
from kdad.engine import signals
from kdad.engine.signals import Stop, end_on_signals, raise_end

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore Ctrl-C
stop, number = Stop(), int(sys.argv[1])
before = signal.getsignal(number)
"""


def run(code, number=15):
    """Run code after START; returns the status and what it wrote to standard output and standard error."""
    command = [sys.executable, "-c", START + code, str(number)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("number", [15, 2])
def test_a_training_ends_after_its_epoch(number):
    status, out, err = run(
        """
with stop.listen():
    stop.end_if_asked(epoch_is_over=True)  # nobody has asked
    signal.raise_signal(number)
    stop.end_if_asked(epoch_is_over=False)
    print("in the epoch")
    stop.end_if_asked(epoch_is_over=True)
    print("after it")
""",
        number,
    )
    assert (status, out) == (128 + number, "in the epoch\n")
    assert "after this epoch" in err and "Traceback" not in err


def test_after_a_training_signals_mean_what_they_meant():
    status, out, _ = run("with stop.listen(): pass\nprint(signal.getsignal(number) is before)")
    assert (status, out) == (0, "True\n")


def test_an_epoch_that_takes_too_long_is_not_waited_for():
    status, out, _ = run(
        """
signals.GRACE = 0.01
with stop.listen():
    signal.raise_signal(number)
    time.sleep(0.02)
    stop.end_if_asked(epoch_is_over=False)
    print("waited")
"""
    )
    assert (status, out) == (143, "")


def test_a_second_signal_ends_at_once():
    status, out, _ = run(
        """
with stop.listen():
    signal.raise_signal(number)
    print("first")
    signal.raise_signal(number)
    time.sleep(1)
    print("second")
"""
    )
    assert (status, out) == (143, "first\n")


@pytest.mark.parametrize("number", [15, 2])
def test_outside_of_a_training_a_signal_ends_the_process_with_its_status(number):
    status, out, err = run(
        """
try:
    with end_on_signals():
        signal.raise_signal(number)
        time.sleep(1)
        print("went on")
finally:
    print(signal.getsignal(number) is before)
""",
        number,
    )
    assert (status, out) == (128 + number, "True\n") and "Traceback" not in err


def test_an_end_keeps_its_status_on_its_way_from_another_process():
    assert pickle.loads(pickle.dumps(Ended(143))).code == 143


@pytest.mark.parametrize("number", [15, 2])
def test_an_error_of_what_is_cleaned_up_does_not_take_the_place_of_the_end(number):
    """As Hydra closes a file that a signal has kept it from opening; an error of something else is one still."""
    status, out, err = run(
        """
with end_on_signals():
    try:
        raise ValueError("its own")
    except ValueError:
        pass
    try:
        try:
            raise KeyError("met before")
        finally:
            raise OSError("an error still")
    except OSError as error:
        raise_end(error)
        print(error)
    try:
        signal.raise_signal(number)
        file = open("nowhere")
    finally:
        file.close()
""",
        number,
    )
    assert (status, out) == (128 + number, "an error still\n") and "Traceback" not in err


def test_a_call_that_waits_for_another_machine_is_ended():
    """It does not come back to Python, which alone would hear the signal."""
    status, out, err = run(
        """
import os, socket, threading
import torch.distributed
signals.STUCK = 1
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
with end_on_signals():
    torch.distributed.TCPStore("127.0.0.1", port, 2, True)  # of two processes, of which the other never comes
"""
    )
    assert status == 143 and "did not come back" in err and "Traceback" not in err


def test_what_works_on_after_sigterm_is_not_taken_for_stuck():
    status, out, _ = run(
        """
signals.STUCK = 1
with stop.listen(), signals.end_if_stuck():
    signal.raise_signal(number)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        sum(range(1000))
    print("worked on")
"""
    )
    assert (status, out) == (0, "worked on\n")


def test_what_waits_after_the_command_is_left_alone():
    status, out, _ = run(
        """
signals.STUCK = 1
with stop.listen(), signals.end_if_stuck():
    signal.raise_signal(number)
time.sleep(1.5)
print("still here")
"""
    )
    assert (status, out) == (0, "still here\n")


@pytest.mark.parametrize("at_work", [False, True])
def test_what_works_for_a_command_ends_with_it(tmp_path, at_work):
    """After its job; a launcher's workers would else wait for jobs for ever."""
    worker = f"""if True:
        import os, pathlib, time
        from kdad.engine.signals import work_for
        with work_for(os.getppid()):
            pathlib.Path("begun").touch()
            time.sleep({3 * at_work})
            pathlib.Path("done").touch()
        time.sleep(60)
        pathlib.Path("left").touch()"""
    starter = f"""if True:
        import subprocess, sys, time
        print(subprocess.Popen([sys.executable, "-c", {worker!r}]).pid, flush=True)
        time.sleep(60)"""
    command = subprocess.Popen([sys.executable, "-c", starter], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    number = int(command.stdout.readline())
    wait_until((tmp_path / ("begun" if at_work else "done")).exists)
    command.kill()
    command.wait()
    wait_until(lambda: not is_alive(number))
    assert (tmp_path / "done").exists()


def wait_until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(number):
    """Whether there is such a process, and no zombie's entry alone."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
