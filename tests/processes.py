"""`python -m <module>` in a process of its own, which has imported what kdad needs before it starts.

Importing takes most of the time of a short command; a server imports once and forks. The command sees what `python -m`
gives it: arguments, folder, the caller's environment, no standard input; it leaves an exit status and can be killed.
What a library reads from the environment while it is imported was read before: such a test needs `subprocess`.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# The commands' own modules import late what is heavy: it is named here.
COMMANDS = ["kdad.run", "kdad.evaluate", "kdad.predict.__main__"]
HEAVY = ["kdad.engine.job", "kdad.engine.plan", "kdad.inference.detector", "kdad.models", "matplotlib.figure", "wandb"]
CONTEXT.set_forkserver_preload([*COMMANDS, *HEAVY])


def become(module, arguments, cwd, environment, out, err):
    os.chdir(cwd)
    os.environ.clear()  # the server's, as it was when it started
    os.environ.update(environment)
    if "RANK" in environment:  # Lightning read it when it was imported
        from lightning_utilities.core.rank_zero import rank_zero_only

        rank_zero_only.rank = int(environment["RANK"])
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = [module, *arguments]
    sys.path.insert(0, str(cwd))
    for name in (module, f"{module}.__main__"):  # `python -m` finds neither imported, and would warn
        if not hasattr(sys.modules.get(name), "__path__"):
            sys.modules.pop(name, None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        threading._shutdown()  # as where nothing was forked: before children are waited for, as joblib's workers are


def start_module(module, arguments, cwd, out=os.devnull, err=os.devnull, **environment):
    """Start `python -m module arguments...` in cwd, and return its process."""
    given = (module, [*map(str, arguments)], str(cwd), os.environ | environment, str(out), str(err))
    process = CONTEXT.Process(target=become, args=given)
    process.start()
    return process


def run_module(module, arguments, cwd, timeout=300):
    """Run `python -m module arguments...` in cwd to its end, and return what `subprocess.run` would."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start_module(module, arguments, cwd, out, err)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([module, *arguments], timeout)
        read = [path.read_text() if path.exists() else "" for path in (out, err)]
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, *read)


def run_processes(count, module, arguments, cwd, timeout=100):
    """Run `python -m module arguments...` in so many processes that train together, as `torchrun` starts them.

    Returns the exit status and standard error of each.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    with tempfile.TemporaryDirectory() as folder:
        errors = [Path(folder, str(rank)) for rank in range(count)]
        started = [
            start_module(module, arguments, cwd, err=err, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
            for rank, err in enumerate(errors)
        ]
        for process in started:
            process.join(timeout)
        late = [process for process in started if process.exitcode is None]
        for process in late:
            process.kill()
        if late:
            raise subprocess.TimeoutExpired([module, *arguments], timeout)
        return [(p.exitcode, err.read_text() if err.exists() else "") for p, err in zip(started, errors, strict=True)]
