"""Kill kdad's commands at random moments, and look at what they leave behind.

    python experiments/trust/kills.py                    # a hundred deaths, some minutes
    python experiments/trust/kills.py deaths=1000 log=experiments/trust/kills.md
    python experiments/trust/kills.py chain=17           # one chain again: its seed and number decide everything

A chain is one command in a fresh folder with strangers' files in it: it dies up to three times, goes on each time as a
user would have it go on (skip_done=true, or the same command again), and is then left to end. After each death and at
the end everything in the folder is compared with what an uninterrupted command leaves. Ways to die:

- SIGKILL, SIGTERM at a random moment of the command's duration;
- a full disk: a tmpfs that has room for a random part of what the command writes (where nothing can be mounted, a limit
  of a random size on each file);
- a disk that turns read-only at a random moment: from then on opening to write, making, renaming and removing fail with
  EROFS in the command's process. A real remount is refused by Linux while the run's lock is open.

One process imports everything and forks a child for each trial, in which the command's own `main` runs.
"""

import csv
import errno
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
import yaml
from PIL import Image

from kdad.errors import UserError
from kdad.inference.files import read_checkpoint
from kdad.results.read import read_runs
from kdad.storage.tensors import hash_file

WAYS = ("SIGKILL", "SIGTERM", "full disk", "read-only")
DEATHS = 3  # of one chain, at most
WRITING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.truncate", "os.link"}
NETWORK = (
    "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false", "image_size=64",
    "batch_size=4", "trainer.accelerator=cpu", "model=rd",
)  # fmt: skip
PLANTED = ("notes.txt", "results.txt", ".results.json.original", "maps/mine.png", "checkpoints/mine.ckpt.bak")
# What tells the time, or which way a run came
VARYING = {
    "fit_seconds", "test_seconds", "step_seconds", "ckpt_path", "modified", "error", "traceback", "cache_storage",
    "cache_hits", "cache_misses", "cache_bytes", "cache_seconds", "cache_saved", "cache",
}  # fmt: skip


@dataclass
class Command:
    """A command to kill: what it is told, where it works, and what must hold of what it leaves."""

    name: str
    module: str
    arguments: Callable[[Path], list[str]]  # of the folder that it works in
    check: Callable[
        [Path, Path, bool], list[str]
    ]  # (folder, that of the reference, whether it has ended) -> violations
    begin: Callable[[Path], None] = lambda folder: None  # puts something there before the first death
    turns: int = 1  # of a round: the shorter it is, the more often it dies
    seconds: float = 0.0
    size: int = 0  # bytes that it writes
    counts: Counter = field(default_factory=Counter)


# The child ----------------------------------------------------------------------------------------------------------


def run_child(command: Command, folder: Path, said: Path, way: str = "", moment: float = 0.0, limit: int = 0) -> int:
    """Fork a child that runs the command in `folder`; returns its process number."""
    sys.stdout.flush(), sys.stderr.flush()
    if child := os.fork():
        return child
    status = 99
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.chdir(folder.parent)
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        warnings.filters[:] = [("ignore", None, Warning, None, 0)]
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if way == "read-only":
            turn_read_only(folder, moment)
        sys.argv = [command.module, *command.arguments(folder)]
        try:
            import_module(command.module).main()
            status = 0
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush(), sys.stderr.flush()
            if names := os.environ.get("KILLS_MODULES"):
                Path(names).write_text("\n".join(sys.modules))
        os._exit(status)


def turn_read_only(folder: Path, moment: float) -> None:
    """Let every change below a folder fail from a moment on, in seconds from now."""
    since, root = time.monotonic() + moment, str(folder)

    def refuse(event: str, arguments: tuple) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in WRITING:
            return
        if time.monotonic() < since or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = str(Path(os.fsdecode(arguments[0])).absolute())
        if path.startswith(root):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    sys.addaudithook(refuse)


def wait(child: int, seconds: float) -> int | None:
    """Wait so long for a child. Returns its status as a shell counts it, None if it has not ended."""
    until = time.monotonic() + seconds
    while True:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(min(0.005, max(0.0, until - time.monotonic())))


def run_to_end(command: Command, folder: Path, said: Path) -> int:
    """Run a command undisturbed. Returns its exit status; raises where it hangs."""
    child = run_child(command, folder, said)
    status = wait(child, 600)
    if status is None:
        os.kill(child, signal.SIGKILL), os.waitpid(child, 0)
        raise RuntimeError(f"{command.name} hangs: a lock was left")
    return status


# What must hold -----------------------------------------------------------------------------------------------------


def list_files(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by their names in it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def is_log(name: str) -> bool:
    """Return whether a file is one that goes on growing, or that tells no result."""
    first = name.split("/")[0]
    return first.startswith("log") or name.rsplit("/")[-1] in (".lock", ".kdad", "run.log", "refused.json")


def check_run(folder: Path, reference: Path, ended: bool) -> list[str]:
    """Return what is wrong with a run's or evaluation's folder."""
    found, wrong = list_files(folder), []
    expected = list_files(reference)
    complete = False
    if results := found.get("results.json"):
        told, whole = (json.loads(path.read_text()) for path in (results, expected["results.json"]))
        complete = told["status"] == "ok"
        if complete:
            differs = {k for k in whole.keys() | told.keys() if told.get(k) != whole.get(k)} - VARYING
            wrong += [f"results.json differs in {sorted(differs)}"] if differs else []
            wrong += [f"complete without {name}" for name in expected if name not in found and not is_log(name)]
    if ended and not complete:
        wrong.append("ended without complete results")
    for name, path in found.items():
        if name in PLANTED or is_log(name) or name == "results.json":
            continue
        if path.suffix == ".ckpt":
            try:
                content = read_checkpoint(path)
            except UserError as error:
                wrong.append(f"{name} is believed but broken: {error}")
                continue
            if complete and name in expected:
                whole = read_checkpoint(expected[name])["state_dict"]
                if not all(torch.equal(content["state_dict"][k], whole[k]) for k in whole):
                    wrong.append(f"{name}: other weights than the uninterrupted run's")
        elif name == "config.yaml":
            a, b = (yaml.safe_load(p.read_text()) for p in (path, expected[name]))
            if {k: v for k, v in a.items() if k not in VARYING} != {k: v for k, v in b.items() if k not in VARYING}:
                wrong.append("config.yaml differs")
        elif name in expected:
            if path.read_bytes() != expected[name].read_bytes():
                wrong.append(f"{name} differs from the uninterrupted command's")
        elif ended:
            wrong.append(f"{name} is left over")
        elif not path.name.startswith("."):
            wrong.append(f"{name}: what is it?")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = read_runs([folder])
    if table.attrs["skipped"]:
        wrong.append(f"a report stumbles: {table.attrs['skipped']}")
    return wrong


def check_sweep(folder: Path, reference: Path, ended: bool) -> list[str]:
    """Return what is wrong with the folders of a sweep's jobs."""
    wrong = []
    for job in ("0", "1"):
        if (folder / job).is_dir() or ended:
            wrong += [f"job {job}: {said}" for said in check_run(folder / job, reference / job, ended)]
    return wrong


def is_same_row(row: list[str], other: list[str]) -> bool:
    """Return whether two rows of a table are equal but for rounding, 1e-5 of a number."""

    def is_same(a: str, b: str) -> bool:
        with suppress(ValueError):
            return a == b or abs(float(a) - float(b)) <= 1e-5 * abs(float(b))
        return False

    return len(row) == len(other) and all(map(is_same, row, other))


def check_predictions(folder: Path, reference: Path, ended: bool) -> list[str]:
    """Return what is wrong with the folder of `kdad predict`: rows are whole, scores right but for rounding."""
    found, expected, wrong = list_files(folder), list_files(reference), []
    for name, path in found.items():
        if name in expected and path.suffix == ".png" and path.read_bytes() != expected[name].read_bytes():
            wrong.append(f"{name} differs from the uninterrupted command's")
        if ended and name not in expected and name not in PLANTED and not is_log(name):
            wrong.append(f"{name} is left over")
    if "scores.csv" in found:
        rows, whole = (
            list(csv.reader(p.read_text().splitlines())) for p in (found["scores.csv"], expected["scores.csv"])
        )
        # What goes on has other batches, and the size of a batch moves the last digit of a score.
        if odd := [row for row in rows if not any(is_same_row(row, other) for other in whole)]:
            wrong.append(f"scores.csv has rows that are not the uninterrupted command's: {odd[:3]}")
        if ended and (len(rows) != len(whole) or not all(map(is_same_row, rows, whole))):
            wrong.append("scores.csv differs from the uninterrupted command's")
    if ended:
        wrong += [f"ended without {name}" for name in expected if name not in found]
    return wrong


def check_checkpoint(folder: Path, reference: Path, ended: bool) -> list[str]:
    """Return what is wrong with a checkpoint that `kdad export` has written: it is the old one or the new one."""
    path = folder / "whole.ckpt"
    if not path.exists():
        return ["no file"] if ended else []
    try:
        read_checkpoint(path)
    except UserError as error:
        return [f"a broken file has its name: {error}"]
    new = hash_file(reference / "whole.ckpt")
    return ["another file than the uninterrupted command's"] if ended and hash_file(path) != new else []


def check_graph(folder: Path, reference: Path, ended: bool) -> list[str]:
    """Return what is wrong with an exported graph: a card stands beside the very file that it describes."""
    made, card = folder / "whole.pt2", folder / "whole.pt2.json"
    if card.exists():
        told = json.loads(card.read_text())["sha256"]
        if not made.exists():
            return ["a card without its file"]
        if told != {made.name: hash_file(made)}:
            return ["the card is of another file"]
    return ["no card"] if ended and not card.exists() else []


def check_cache(folder: Path, reference: Path, ended: bool) -> list[str]:
    """Return what is wrong with a cache: each array that has its name is the whole one."""
    found, expected = (list_files(place / "arrays") for place in (folder, reference))
    wrong = [
        f"{name} is believed but differs" for name, path in found.items()
        if path.suffix == ".npy" and (name not in expected or path.read_bytes() != expected[name].read_bytes())
    ]  # fmt: skip
    runs = folder.parent / "of_cache", reference.parent / f"of_{reference.name}"
    return wrong + (check_run(*runs, ended) if ended else [])


# The commands -------------------------------------------------------------------------------------------------------


def make_pictures(root: Path) -> None:
    """Make a category "tile" in MVTec's layout."""
    generator = np.random.default_rng(0)
    for kind, count in (("train/good", 8), ("test/good", 3), ("test/square", 3)):
        for i in range(count):
            image, mask = generator.integers(60, 120, (70, 70, 3), dtype=np.uint8), np.zeros((70, 70), np.uint8)
            if kind == "test/square":
                image[20:40, 30:50], mask[20:40, 30:50] = 230, 255
                place = root / "tile/ground_truth/square" / f"{i:03d}_mask.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(place)
            place = root / "tile" / kind / f"{i:03d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)


def list_commands(base: Path) -> dict[str, Command]:
    """Return the commands by name; what they read lies below `base`."""
    data = [f"dataset.root={base / 'data'}", "dataset=mvtec", "category=tile", *NETWORK]
    long = [*data, "trainer.max_epochs=3", "checkpoint_seconds=0", "pictures=3"]
    whole, other = base / "reference/run", base / "reference/sweep/1"

    def begin_export(folder: Path) -> None:
        """Put the export of another run where that of this one will go."""
        for path in (base / "other_export").glob("whole*"):
            shutil.copy(path, folder)

    def export(format: str, name: str) -> Callable[[Path], list[str]]:
        # The first, before there is a reference, exports the other run, to be replaced
        def list_arguments(folder: Path) -> list[str]:
            run = other if folder.name == "other_export" else whole
            return [f"ckpt_path={run}", f"format={format}", f"output={folder / name}", "overwrite=true", "images=2"]

        return list_arguments

    def evaluate(folder: Path) -> list[str]:
        return [f"ckpt_path={whole}", "model.sigma=2", "pictures=3", f"hydra.run.dir={folder}", "overwrite=true"]

    def predict(folder: Path) -> list[str]:
        pictures = f"input={base / 'data/tile/test'}"
        return [
            f"ckpt_path={whole}",
            pictures,
            f"hydra.run.dir={folder}",
            "skip_done=true",
            "batch_size=2",
            "device=cpu",
        ]

    def cache(folder: Path) -> list[str]:
        name = "of_cache" if folder.name == "folder" else f"of_{folder.name}"
        place = ["cache.storage=disk", f"cache.folder={folder}", f"hydra.run.dir={folder.parent / name}"]
        return [*data, "trainer.max_epochs=1", "overwrite=true", "pictures=0", *place]

    found = [
        Command("run", "kdad.run", lambda f: [*long, f"hydra.run.dir={f}", "skip_done=true"], check_run),
        Command("sweep", "kdad.run",
                lambda f: ["-m", *data, "trainer.max_epochs=2", "checkpoint_seconds=0", "seed=0,1", "pictures=3",
                           f"hydra.sweep.dir={f}", "skip_done=true"], check_sweep),
        Command("evaluate", "kdad.evaluate", evaluate, check_run),
        Command("predict", "kdad.predict.__main__", predict, check_predictions),
        Command("export checkpoint", "kdad.export.__main__", export("checkpoint", "whole.ckpt"), check_checkpoint, begin_export),
        Command("export graph", "kdad.export.__main__", export("torch", "whole.pt2"), check_graph, begin_export),
        Command("cache", "kdad.run", cache, check_cache),
    ]  # fmt: skip
    turns = {"run": 3, "evaluate": 3, "predict": 4, "export checkpoint": 4, "cache": 2}
    for command in found:
        command.turns = turns.get(command.name, 1)
    return {command.name: command for command in found}


def prepare(base: Path, names: list[str]) -> list[Command]:
    """Make pictures and the references, in children; import here what they have imported. Returns the commands."""
    torch.set_num_threads(1)
    make_pictures(base / "data")
    every = list_commands(base)
    for module in {command.module for command in every.values()}:
        import_module(module)
    os.environ["KILLS_MODULES"] = str(base / "modules.txt")
    needed = [*dict.fromkeys(["run", *(["sweep"] if any("export" in name for name in names) else []), *names])]
    for name in needed:
        command, folder = every[name], base / "reference" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        if "export" in name:
            (base / "other_export").mkdir(exist_ok=True)
            if run_to_end(command, base / "other_export", base / "said.txt"):
                raise RuntimeError((base / "said.txt").read_text())
        for again in range(2):  # the second time with all modules imported
            began = time.monotonic()
            shutil.rmtree(folder), folder.mkdir()
            if run_to_end(command, folder, base / "said.txt"):
                raise RuntimeError((base / "said.txt").read_text())
            command.seconds = time.monotonic() - began
            if not again:
                for module in (base / "modules.txt").read_text().splitlines():
                    if not module.startswith(("__main__", "__mp_main__", "torch._inductor", "triton")):
                        with suppress(BaseException):
                            import_module(module)
        command.size = sum(path.stat().st_size for path in list_files(folder).values())
        print(f"{name}: {command.seconds:.1f} s, {command.size / 1e6:.1f} MB", flush=True)
    del os.environ["KILLS_MODULES"]
    return [every[name] for name in names]


# A chain of deaths --------------------------------------------------------------------------------------------------


class Volume:
    """A place for the folders, of which the size can be set where a tmpfs can be mounted."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir()
        self.mounted = self._mount("-t", "tmpfs", "-o", "size=512m", "kills")

    def _mount(self, *arguments: str) -> bool:
        done = shutil.which("mount") and subprocess.run(["mount", *arguments, str(self.path)], capture_output=True)
        return bool(done) and done.returncode == 0

    def limit(self, size: int | None) -> None:
        """Leave room for so many bytes more; None: for all."""
        state = os.statvfs(self.path)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        self._mount("-o", "remount,size=512m" if size is None else f"remount,size={used + size}")

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.path)], check=True)


def plant(folder: Path) -> dict[str, bytes]:
    """Put strangers' files into a folder. Returns what they hold, by name."""
    held = {name: f"a stranger's {name}".encode() for name in PLANTED}
    for name, content in held.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return held


def run_chain(command: Command, way: str, seed: int, chain: int, base: Path, volume: Volume) -> list[str]:
    """Let a command die up to `DEATHS` times, and then end. Counts the deaths; returns the violations."""
    generator = np.random.default_rng([seed, chain])
    room = volume.path / f"{chain}"
    folder, said, reference = room / "folder", base / "said.txt", base / "reference" / command.name.replace(" ", "_")
    folder.mkdir(parents=True)
    command.begin(folder)
    held = plant(folder)
    wrong, status = [], -1

    def look(what: str, ended: bool) -> None:
        problems = []
        try:
            problems += command.check(folder, reference, ended)
        except Exception:
            problems.append(f"what is left cannot be read: {traceback.format_exc()}")
        problems += [f"a stranger's {name} was touched" for name, content in held.items()
                     if not (folder / name).is_file() or (folder / name).read_bytes() != content]  # fmt: skip
        text = said.read_text(errors="replace")
        if "Traceback" in text:
            problems.append("a traceback")
        if problems:
            command.counts[way, "violations"] += 1
            wrong.append(
                f"chain={chain} seed={seed}: {command.name}, {what}: " + "; ".join(problems) + f"\n{text[-3000:]}"
            )

    for death in range(DEATHS):
        before = set(list_files(room))
        moment, part = generator.uniform(0, command.seconds), generator.uniform(0, 1)
        limit = 0
        if way == "full disk":
            volume.limit(max(4096, round(part * command.size))) if volume.mounted else None
            limit = 0 if volume.mounted else max(64, round(part * command.size / 8))
        child = run_child(command, folder, said, way, moment, limit)
        status = wait(child, moment if way.startswith("SIG") else 600)
        if status is None and way.startswith("SIG"):
            os.kill(child, signal.Signals[way])
            status = wait(child, 120)
        if status is None:
            os.kill(child, signal.SIGKILL), os.waitpid(child, 0)
            wrong.append(f"chain={chain} seed={seed}: {command.name} does not end after {way}")
        if way == "full disk" and volume.mounted:
            volume.limit(None)
        after = set(list_files(room)) - before
        outcome = "ended anyway" if status == 0 else "in the middle" if after - {"folder/.lock"} else "before anything"
        command.counts[way, outcome] += 1
        look(f"death {death + 1} by {way} at {moment:.3f} s (part {part:.3f}), status {status}", status == 0)
        if status == 0:
            break
    if status != 0 and run_to_end(command, folder, said) != 0:
        wrong.append(
            f"chain={chain} seed={seed}: {command.name} does not go on after {way}:\n{said.read_text()[-2000:]}"
        )
    elif status != 0:
        look(f"going on after {way}", True)
    shutil.rmtree(room)
    return wrong


@cache  # the commit of the code that began, whatever is committed meanwhile
def describe_machine() -> str:
    """Return the commit and the machine."""
    said = subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines()
    cpu = next((line.split(":")[1].strip() for line in said if "Model name" in line), platform.machine())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return f"commit {commit}, {cpu}, {os.cpu_count()} cores shared with other work, torch {torch.__version__}"


def write_log(path: Path, commands: list[Command], arguments: list[str], seconds: float, mounted: bool) -> None:
    """Write the table of all deaths."""
    outcomes = ("before anything", "in the middle", "ended anyway", "violations")
    lines = ["# Commands killed at random moments", "",
             f"    python experiments/trust/kills.py {' '.join(arguments)}", "",
             f"At {describe_machine()}, {seconds:.0f} s. "
             f"Full disk: {'a tmpfs' if mounted else 'a limit on the size of each file'}. "
             "A death is *before anything* where the command had written nothing but its lock, and *ended anyway* where "
             "the command was over by then or needed no more room. A violation is any of: a file that is cut short under a name that is believed, "
             "a result other than the uninterrupted command's (to the bit; of predict, whose batches are others when it goes on, to 1e-5), a stranger's file touched, a traceback, a command that does "
             "not go on.", "",
             f"| command | way of dying | {' | '.join(outcomes)} |", "|---|---|--:|--:|--:|--:|"]  # fmt: skip
    total: Counter = Counter()
    for command in commands:
        for way in WAYS:
            counts = [command.counts[way, outcome] for outcome in outcomes]
            total.update(dict(zip(outcomes, counts, strict=True)))
            lines.append(f"| {command.name} | {way} | {' | '.join(map(str, counts))} |")
    lines.append(f"| **all** | | {' | '.join(f'**{total[outcome]}**' for outcome in outcomes)} |")
    path.write_text("\n".join(lines) + "\n")


def main(arguments: list[str]) -> list[str]:
    """Kill until there were so many deaths. Returns the violations."""
    given = {"deaths": "100", "seed": "0", "chain": "", "log": "", "commands": "", "ways": ",".join(WAYS)}
    given |= dict(argument.split("=", 1) for argument in arguments)
    base = Path(tempfile.mkdtemp(prefix="kdad_kills_")).resolve()
    names = given["commands"].split(",") if given["commands"] else list(list_commands(base))
    ways, began, wrong = given["ways"].split(","), time.monotonic(), []
    volume = Volume(base / "volume")
    parent = os.getpid()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        commands = prepare(base, names)
        turns = [command for command in commands for _ in range(command.turns)]
        chains = [int(given["chain"])] if given["chain"] else range(10**9)
        for chain in chains:
            command, way = turns[chain % len(turns)], ways[(chain + chain // len(turns)) % len(ways)]
            for said in run_chain(command, way, int(given["seed"]), chain, base, volume):
                wrong.append(said)
                print(said, flush=True)
            dead = sum(n for c in commands for (_, what), n in c.counts.items() if what != "violations")
            if given["log"]:
                write_log(Path(given["log"]), commands, arguments, time.monotonic() - began, volume.mounted)
            if dead >= int(given["deaths"]):
                break
        print(f"{dead} deaths, {len(wrong)} violations, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        if os.getpid() == parent:
            volume.close()
            shutil.rmtree(base, ignore_errors=True)
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
