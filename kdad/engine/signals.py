"""Signals that ask a job to end: training ends after its epoch, with a checkpoint of it to go on from; status 128 + n.

SIGTERM, Ctrl-C and a closed terminal leave an epoch `GRACE` seconds to end in; of a longer one nothing is kept, and the
checkpoint is of the last epoch that was saved: the first that long is, and one every checkpoint_seconds. SIGUSR1, which
Slurm can send ahead of time, waits for the epoch's end.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PATIENT = getattr(signal, "SIGUSR1", None)  # None on Windows
ASKING = tuple(n for n in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", None), PATIENT) if n is not None)
GRACE = 5.0  # seconds that an epoch has to end in: `docker stop` and the like kill after ten
STUCK = 8  # seconds in one and the same call, after SIGTERM, that does not come back to hear it
_heard: list[int] = []  # signals that came to a handler here
_followed: list[int] = []  # the process that this one ends with
_at_work = threading.RLock()  # held by a job


class Ended(SystemExit):
    """A signal's end of the process, with status 128 + n: a type of its own, to be told from others."""


def raise_end(error: BaseException) -> None:
    """Raise the end that a signal has asked for, where another error has taken its place; else return.

    A signal can come anywhere, in a library between `try:` and what its `finally:` closes, too, and the error that
    this raises would be taken for what went wrong.
    """
    before = error.__context__
    while before:
        if isinstance(before, Ended | KeyboardInterrupt):
            raise before
        before = before.__context__


@contextmanager
def end_on_signals() -> Iterator[None]:
    """End the process with status 128 + n, not silently, on SIGTERM and Ctrl-C while the block runs."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        _heard.append(number)
        raise Ended(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        try:
            with end_if_stuck():
                yield
        except Exception as error:
            raise_end(error)
            raise
    except KeyboardInterrupt:
        print("kdad: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def hear_interrupts(trainer: Any) -> Iterator[None]:
    """Raise KeyboardInterrupt where Ctrl-C ends a trainer's work in the block: Lightning ends the process, status 1."""
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from ended
        raise
    if trainer.interrupted:
        raise KeyboardInterrupt


@contextmanager
def end_if_stuck() -> Iterator[None]:
    """End the process, with status 143, where SIGTERM comes while the block runs and its main thread does not hear it.

    Python hears signals between two of its own instructions. A call that waits for another machine, as `trainer=ddp`
    does for all of its processes, comes to none for half an hour; the system is asked to tell a thread of it instead.
    """
    read, write = socket.socketpair()
    write.setblocking(False)
    over = threading.Event()
    before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read, threading.get_ident(), over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        write.close()


def _watch(told: socket.socket, thread: int, over: threading.Event) -> None:
    expected = _heard.count(signal.SIGTERM)
    with told:
        while numbers := told.recv(1):  # nothing once the other end is closed
            if numbers[0] != signal.SIGTERM:
                continue
            expected += 1
            seen = {_find_place(thread)}
            for _ in range(10 * STUCK):
                if over.wait(0.1):
                    return
                seen.add(_find_place(thread))
            if len(seen) == 1 and _heard.count(signal.SIGTERM) < expected:
                print("kdad: ended by SIGTERM in a call that did not come back", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGTERM)


def _find_place(thread: int) -> tuple[int, int]:
    """Return where a thread is: its innermost call, and the instruction in it."""
    frame = sys._current_frames().get(thread)
    return (id(frame), frame.f_lasti) if frame else (0, 0)


@contextmanager
def work_for(starter: int) -> Iterator[None]:
    """Do one job of a sweep in the block, and end this process after it if the one that started the sweep is no more.

    What a launcher starts would else wait for jobs for ever, with its memory and its GPU, where the command was killed.
    Processes that are not its children, such as those on other machines, are their own scheduler's.
    """
    if _followed and os.getppid() != starter:
        os._exit(0)
    if not _followed and os.getppid() == starter:
        _followed.append(starter)
        threading.Thread(target=_follow, args=(starter,), daemon=True).start()
    with _at_work:
        yield


def _follow(starter: int) -> None:
    while os.getppid() == starter:
        time.sleep(1)
    with _at_work:
        os._exit(0)


class Stop:
    """Whether a signal has asked a training to end. `number` is the signal's, 0 while there was none."""

    def __init__(self) -> None:
        self.number, self.since = 0, 0.0

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Note the signals that ask for an end while the block runs, for `end_if_asked`; a second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Not those that a shell's & or nohup has turned off
        heard = [number for number in ASKING if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        _heard.append(number)
        if self.number:
            raise Ended(128 + number)
        self.number, self.since = number, time.monotonic()
        at_latest = "" if number == PATIENT else f", or in {GRACE:.0f} s"
        print(f"\nkdad: ends after this epoch{at_latest}; again to end at once", file=sys.stderr)

    def end_if_asked(self, epoch_is_over: bool) -> None:
        """End with status 128 + n if a signal has asked for it, in the middle of an epoch only after `GRACE`.

        Raises `SystemExit`.
        """
        late = self.number != PATIENT and time.monotonic() - self.since > GRACE
        if self.number and (epoch_is_over or late):
            raise Ended(128 + self.number)
