"""A signal ends a job with its status, after the epoch; a second one at once.

They are raised in the thread that handles them: one sent to the process may come to another thread, after the test.
"""

import signal
import time

import pytest

from kdad.engine import signals
from kdad.engine.signals import Stop, end_on_signals


@pytest.fixture(autouse=True)
def heard():
    """A shell has its background jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_ends_after_its_epoch(number, capsys):
    stop, before = Stop(), signal.getsignal(number)
    with stop.listen():
        stop.end_if_asked(epoch_is_over=True)  # nobody has asked
        signal.raise_signal(number)
        stop.end_if_asked(epoch_is_over=False)
        with pytest.raises(SystemExit) as ended:
            stop.end_if_asked(epoch_is_over=True)
    assert ended.value.code == 128 + number and signal.getsignal(number) is before
    assert "after this epoch" in capsys.readouterr().err


def test_an_epoch_that_takes_too_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(signals, "GRACE", 0.01)
    stop = Stop()
    with stop.listen():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.02)
        with pytest.raises(SystemExit):
            stop.end_if_asked(epoch_is_over=False)


def test_a_second_signal_ends_at_once():
    with Stop().listen():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(1)
    assert ended.value.code == 143


def test_outside_of_a_training_a_signal_ends_the_process_with_its_status():
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGINT):
        with pytest.raises(SystemExit) as ended, end_on_signals():
            signal.raise_signal(number)
            time.sleep(1)
        assert ended.value.code == 128 + number
    assert signal.getsignal(signal.SIGTERM) is before
