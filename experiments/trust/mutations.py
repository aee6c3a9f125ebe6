"""Mutate the files that kdad reads, and feed each to the reader that a user's command feeds it to.

    python experiments/trust/mutations.py                   # 500 files
    python experiments/trust/mutations.py files=10000 log=experiments/trust/mutations.md
    python experiments/trust/mutations.py only=4711         # one file again, with its traceback

What may come out: the same as of the file that was mutated, another plausible content (a pixel or a name that has
changed), a `UserError`, or a skip that says so. A fault is another exception, a crash, code that was run, a file written
anywhere, more memory than 2 GB, or more than 20 seconds. Every file is made from (seed, number) alone. A child process
takes a hundred files at a time, so that a crash is met, too.

hypothesis is not used: files in ten formats are no values that it could draw or shrink, and a number says how to make
one again.
"""

import csv
import io
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from kdad.data.images import limit_size, look, read_image
from kdad.data.listed import read_list
from kdad.data.masks import decode_mask, find_anomalous_pixels, resize_mask
from kdad.errors import UserError
from kdad.storage.cache import Array, ArrayStore

Random = np.random.Generator
MEMORY, SECONDS, BATCH = 2 * 2**30, 20, 100
STRANGE = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "text",
    "../../x",
    "\x00",
    [],
    {},
    [[1]],
    {"a": {"b": 1}},
]


class Runs:
    """Something that runs a command when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.canary}",)


@dataclass
class Kind:
    """A kind of file: examples of it, how one is mutated beyond its bytes, and the reader."""

    name: str
    examples: list[bytes]
    suffixes: list[str]
    read: Callable[[Path], Any]  # what is comparable by ==, or raises
    structured: Callable[[bytes, Random, Path], bytes] | None = None
    exact: bool = False  # another content than the example's, silently taken, is a fault


# Mutations ------------------------------------------------------------------------------------------------------------


def mutate_bytes(data: bytes, random: Random) -> tuple[str, bytes]:
    """Damage bytes. Returns the name of the way, and the damaged ones."""
    way = [
        "flips",
        "truncated",
        "chunk lost",
        "chunk repeated",
        "chunk zeroed",
        "inserted",
        "foreign",
        "empty",
        "large numbers",
    ][random.integers(9)]
    n, data_ = len(data), bytearray(data)
    a, b = sorted(random.integers(0, max(1, n), 2).tolist())
    b = min(b, a + 4096)
    if way == "flips":
        for place in random.integers(0, max(1, n), random.integers(1, 9)):
            data_[place] ^= 1 << random.integers(8)
    elif way == "truncated":
        del data_[a:]
    elif way == "chunk lost":
        del data_[a:b]
    elif way == "chunk repeated":
        data_[b:b] = data_[a:b]
    elif way == "chunk zeroed":
        data_[a:b] = bytes(b - a)
    elif way == "inserted":
        data_[a:a] = random.bytes(random.integers(1, 64))
    elif way == "foreign":
        heads = [
            b"<html><body>Not found",
            b"PK\x03\x04",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            b"\x80\x02}q\x00.",
            b"GIF89a",
            b"version https://git-lfs.github.com/spec/v1\n",
        ]
        data_ = bytearray(heads[random.integers(len(heads))]) + (data_[a:] if random.integers(2) else b"")
    elif way == "empty":
        data_ = bytearray()
    else:  # in the head, where sizes stand
        place = int(random.integers(0, max(1, min(n, 64))))
        data_[place : place + 4] = [b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\x00\x00\x75\x30", b"\x30\x75\x00\x00"][
            random.integers(4)
        ]
    return way, bytes(data_)


def change_leaf(value: Any, random: Random, strange: list | None = None) -> Any:
    """Return plain values in which one leaf, somewhere, is another, missing, or too much."""
    choices = strange or STRANGE
    if isinstance(value, dict) and value and random.integers(8):
        key = list(value)[random.integers(len(value))]
        if not random.integers(6):
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: change_leaf(value[key], random, strange)}
    if isinstance(value, list) and value and random.integers(6):
        place = int(random.integers(len(value)))
        return [*value[:place], change_leaf(value[place], random, strange), *value[place + 1 :]]
    return choices[random.integers(len(choices))]


def change_json(data: bytes, random: Random, canary: Path) -> bytes:
    way = random.integers(10)
    if way == 0:
        return b"[" * 100_000
    if way == 1:
        return b'{"status": ' + b"9" * 5000 + b"}"
    return json.dumps(change_leaf(json.loads(data), random)).encode()


def change_yaml(data: bytes, random: Random, canary: Path) -> bytes:
    way = random.integers(12)
    if way == 0:
        return b"!!python/object/apply:os.system ['touch " + str(canary).encode() + b"']"
    if way == 1:  # a billion laughs
        lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
        return data + "\n".join(lines).encode()
    if way == 2:
        return b"[" * 5000
    if way == 3:
        return data.replace(b"name:", b"name: ${nowhere} #", 1)
    return yaml.safe_dump(change_leaf(yaml.safe_load(data), random)).encode()


def change_csv(data: bytes, random: Random, canary: Path) -> bytes:
    rows = list(csv.reader(io.StringIO(data.decode())))
    row = rows[random.integers(len(rows))]
    cells = [
        "",
        "nan",
        "-1",
        "1e999",
        "~nobody/x.png",
        "x" * 5000 + ".png",
        "../../etc/passwd",
        "=1+1",
        '"',
        "\x00",
        "a\nb",
        "0.5",
        "anomalous",
    ]
    row[random.integers(len(row))] = cells[random.integers(len(cells))]
    if not random.integers(4):
        del rows[random.integers(len(rows))]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def change_checkpoint(data: bytes, random: Random, canary: Path) -> bytes:
    """Change what a checkpoint holds, plant code in it, or repack it as a bomb."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    way = random.integers(8)
    strange = [*STRANGE, torch.zeros(2, 3), torch.zeros(0), torch.full((3,), torch.nan)]
    if way == 0:
        content["kdad"]["config"]["model"]["_target_"] = ["os.system", "builtins.eval", "kdad.models.rd.nn"][
            random.integers(3)
        ]
    elif way == 1:
        content = Runs(canary) if random.integers(2) else {**content, "more": Runs(canary)}
    elif way == 2:
        text = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(text, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                big = name.endswith("data/0")
                new.writestr(name, bytes(300_000_000) if big else old.read(name))
        return text.getvalue()
    elif way == 3:
        return pickle.dumps(Runs(canary))
    else:
        part = ["kdad", "state_dict", "teacher", "kdad", "kdad"][way - 3]
        content[part] = change_leaf(dict(content[part]), random, strange)
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


def change_image(data: bytes, random: Random, canary: Path) -> bytes:
    """Make an image of an odd size or mode, or one of another format under this name."""
    way = random.integers(6)
    modes = ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB", "HSV"]
    size = [(30_000, 1), (1, 30_000), (30_000, 30), (1, 1)][random.integers(4)] if way < 3 else (70, 70)
    image = Image.new(modes[random.integers(len(modes))] if way > 1 else "RGB", size)
    for format in np.random.default_rng(random.integers(99)).permutation(
        ["PNG", "TIFF", "BMP", "JPEG", "GIF", "EPS", "PDF", "ICO"]
    ):
        made = io.BytesIO()
        try:
            image.save(made, format)
            return made.getvalue()
        except (OSError, ValueError, KeyError):
            continue
    return b""


# Readers --------------------------------------------------------------------------------------------------------------


def name_tensors(state: Any) -> Any:
    """Return what compares equal where tensors do."""
    if isinstance(state, torch.Tensor):
        return (
            str(state.dtype),
            tuple(state.shape),
            state.contiguous().view(-1).numpy().tobytes() if state.numel() else b"",
        )
    if isinstance(state, dict):
        return {str(key): name_tensors(value) for key, value in state.items()}
    return [name_tensors(value) for value in state] if isinstance(state, list | tuple) else repr(state)


def list_kinds(base: Path) -> list[Kind]:
    """Return the kinds of files, with examples made of a run in `base`."""
    from kdad.engine.checkpoint import Checkpoint
    from kdad.engine.run_folder import RunFolder
    from kdad.figures.curves import PANELS, read_curve
    from kdad.inference.detector import load
    from kdad.report.study import make_study_report
    from kdad.results.kinds import measure_kinds, read_defects
    from kdad.results.read import METRICS, read_runs
    from kdad.results.series import read_scores
    from kdad.teacher.weights import read_weights

    random = np.random.default_rng(0)
    run, images = RunFolder(base / "run"), []
    for format, suffix in (
        ("PNG", ".png"),
        ("JPEG", ".jpg"),
        ("TIFF", ".tif"),
        ("BMP", ".bmp"),
        ("WEBP", ".webp"),
        ("PPM", ".ppm"),
    ):
        made = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (70, 70, 3), dtype=np.uint8)).save(made, format)
        images.append((made.getvalue(), suffix))
    deep = io.BytesIO()
    Image.fromarray(random.integers(0, 65535, (40, 40), dtype=np.uint16)).save(deep, "PNG")
    images.append((deep.getvalue(), ".png"))
    mask = np.zeros((70, 70), np.uint8)
    mask[20:40, 30:50] = 255
    masks = []
    for format, suffix in (("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif")):
        made = io.BytesIO()
        Image.fromarray(mask).save(made, format)
        masks.append((made.getvalue(), suffix))
    (base / "good.png").write_bytes(images[0][0])
    state = {f"layer{i}.weight": torch.randn(4, 3) for i in range(5)}
    pth = io.BytesIO()
    torch.save(state, pth)
    save_file(state, base / "weights.safetensors")
    array = Array(("mutated",), (10, 3), "float32", "an array")
    values = np.arange(30, dtype=np.float32).reshape(10, 3)
    ArrayStore("disk", folder=base / "cache").fetch([array], lambda wanted: iter([[values]]))
    stored = ArrayStore("disk", folder=base / "cache").locate(array).read_bytes()
    listing = "path,label,mask,split\n" + "".join(
        f"{base}/good.png,0,,{s}\n" if i == 0 else f"{base}/more{i}.png,{int(i > 2)},,{'test' if i > 2 else 'train'}\n"
        for i, s in enumerate(["train"] * 5)
    )
    for i in range(1, 5):
        (base / f"more{i}.png").write_bytes(images[0][0])

    def read_any_image(path: Path) -> Any:
        found = look(path)
        return found, read_image(path, 32).numpy().tobytes()

    def read_any_mask(path: Path) -> Any:
        anomalous, grey = find_anomalous_pixels(decode_mask(path), "auto", path, base / "good.png")
        return resize_mask(anomalous, 32, grey)[0].numpy().tobytes()

    def read_any_checkpoint(path: Path) -> Any:
        found = Checkpoint.load(path)
        detector = load(path, "cpu")
        detector(base / "good.png")
        told = [
            found.epochs,
            found.tested_epoch,
            found.parts,
            found.seen,
            found.rule,
            found.config,
            found.add_to([]),
        ]
        return name_tensors(dict(found.content["state_dict"])), repr(told), repr(detector.decision)

    def read_any_weights(path: Path) -> Any:
        return name_tensors(dict(read_weights(path)))

    def place_file(path: Path, name: str) -> Path:
        """Put the mutated file into a folder like the run's."""
        folder = path.parent / "as_run"
        folder.mkdir(exist_ok=True)
        for own in ("results.json", "config.yaml", "scores.csv", "curves.npz", "defects.csv"):
            (folder / own).write_bytes((path if own == name else run.path / own).read_bytes())
        return folder

    def read_run(name: str) -> Callable[[Path], Any]:
        def read(path: Path) -> Any:
            folder = place_file(path, name)
            there = RunFolder(folder)
            told = [there.read(), there.read_config(), there.read_hash(), there.is_complete(), there.is_ours()]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                table = read_runs([folder])
            if table.attrs["skipped"]:
                return "skipped", table.attrs["skipped"][0][:60]
            report = make_study_report(table, list(METRICS)) if len(table) else None
            row = table.iloc[0] if len(table) else None
            if name == "scores.csv":
                told += [read_scores(row).to_csv(), measure_kinds(there.scores)]
            elif name == "curves.npz":
                told += [[part.tobytes() for part in read_curve(row, PANELS[which])] for which in PANELS]
            elif name == "defects.csv":
                told += [read_defects(there.defects)]
            return repr(told), bool(report)

        return read

    def read_cached(path: Path) -> Any:
        store = ArrayStore("disk", folder=path.parent / "cache")
        place = store.locate(array)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
        made: list[int] = []

        def produce(wanted: Any) -> Any:
            made.append(1)
            yield [values]

        found = (store.fetch([array], produce) or [torch.zeros(0)])[0][:]
        if tuple(found.shape) != values.shape or found.dtype != torch.float32:
            raise AssertionError(f"believed an array of shape {tuple(found.shape)}, {found.dtype}")
        return ("skipped", "computed anew") if made else found.numpy().tobytes()

    def read_any_list(path: Path) -> Any:
        found = read_list(path)
        return repr(found.rows), found.has_splits

    small = (run.checkpoints / "tested.ckpt").read_bytes()

    def example(name: str) -> bytes:
        return (run.path / name).read_bytes()

    return [
        Kind("image", [data for data, _ in images], [suffix for _, suffix in images], read_any_image, change_image),
        Kind("mask", [data for data, _ in masks], [suffix for _, suffix in masks], read_any_mask, change_image),
        Kind("checkpoint", [small], [".ckpt"], read_any_checkpoint, change_checkpoint),
        Kind("weights .pth", [pth.getvalue()], [".pth"], read_any_weights,
             lambda data, r, canary: pickle.dumps(Runs(canary)) if r.integers(2) else change_pth(state, r, canary)),
        Kind("weights .safetensors", [(base / "weights.safetensors").read_bytes()], [".safetensors"], read_any_weights),
        Kind("results.json", [example("results.json")], [".json"], read_run("results.json"), change_json),
        Kind("config.yaml", [example("config.yaml")], [".yaml"], read_run("config.yaml"), change_yaml),
        Kind("scores.csv", [example("scores.csv")], [".csv"], read_run("scores.csv"), change_csv),
        Kind("defects.csv", [example("defects.csv")], [".csv"], read_run("defects.csv"), change_csv),
        Kind("curves.npz", [example("curves.npz")], [".npz"], read_run("curves.npz")),
        Kind("cache", [stored], [".npy"], read_cached),
        Kind("dataset.list", [listing.encode()], [".csv"], read_any_list, change_csv),
    ]  # fmt: skip


def change_pth(state: dict, random: Random, canary: Path) -> bytes:
    made = io.BytesIO()
    changed = change_leaf({**state, "layer0.weight": Runs(canary)} if random.integers(2) else dict(state), random)
    torch.save(changed, made)
    return made.getvalue()


# One file after the other -----------------------------------------------------------------------------------------------


def make_file(kinds: list[Kind], seed: int, number: int, canary: Path) -> tuple[Kind, str, bytes, int]:
    """Make a mutated file. Returns its kind, the way, its bytes, and which example it comes from."""
    random = np.random.default_rng([seed, number])
    kind = kinds[number % len(kinds)]
    which = int(random.integers(len(kind.examples)))
    if kind.structured and random.integers(2):
        return kind, "content", kind.structured(kind.examples[which], random, canary), which
    return kind, *mutate_bytes(kind.examples[which], random), which


def read_file(kind: Kind, data: bytes, which: int, expected: dict, folder: Path, verbose: bool) -> str:
    """Feed a file to its reader. Returns what came of it: same, other, refused, skipped, or the fault."""

    def late(number: int, frame: Any) -> None:
        raise KeyboardInterrupt("endless")  # which no reader takes for an error of its own

    path = folder / f"mutated{kind.suffixes[which]}"
    path.write_bytes(data)
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        found = kind.read(path)
    except UserError:
        return "refused"
    except BaseException as error:
        if verbose:
            traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)
        own = [f"{Path(frame.filename).name}:{frame.name}" for frame in place if "/kdad/" in frame.filename]
        return f"fault: {type(error).__name__} in {own[-1] if own else '?'}: {str(error)[:80]}".replace("\n", " ")
    finally:
        signal.alarm(0)
    if isinstance(found, tuple) and found and found[0] == "skipped":
        return "skipped"
    return "same" if found == expected[kind.name, which] else "other"


def train_run(base: Path) -> None:
    """Train the run whose files are mutated."""
    sys.path.insert(0, str(Path(__file__).parent))
    import kills

    kills.make_pictures(base / "data")
    command = kills.Command("run", "kdad.run", lambda f: [
        f"dataset.root={base / 'data'}", "dataset=mvtec", "category=tile", *kills.NETWORK, "trainer.max_epochs=1",
        f"hydra.run.dir={f}", "pictures=1", "logger=none"], kills.check_run)  # fmt: skip
    if kills.run_to_end(command, base / "run", base / "said.txt"):
        raise RuntimeError((base / "said.txt").read_text())


def run_batch(kinds: list[Kind], seed: int, numbers: range, base: Path, expected: dict, verbose: bool) -> list[list]:
    """Read a batch of files in a child. Returns [number, kind, way, outcome] of each; a crash ends the batch."""
    told, folder = base / "told.jsonl", base / "work"
    folder.mkdir(exist_ok=True)
    told.write_text("")
    before = {path.name for path in base.iterdir()}
    if not (child := os.fork()):
        used = (
            int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            if Path("/proc/self/statm").exists()
            else 0
        )
        if used:
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        canary = base / "canary"
        with told.open("a") as out:
            for number in numbers:
                kind, way, data, which = make_file(kinds, seed, number, canary)
                out.write(json.dumps([number, kind.name, way, "fault: crash"]) + "\n")
                out.flush()
                outcome = read_file(kind, data, which, expected, folder, verbose)
                if canary.exists():
                    outcome = "fault: code was run"
                    canary.unlink()
                if more := {path.name for path in base.iterdir()} - before:
                    outcome = f"fault: wrote {sorted(more)}"
                out.write(json.dumps([number, kind.name, way, outcome]) + "\n")
                out.flush()
        os._exit(0)
    os.waitpid(child, 0)
    last = {line[0]: line for line in map(json.loads, told.read_text().splitlines())}
    return list(last.values())


def main(arguments: list[str]) -> list[str]:
    """Mutate and read so many files. Returns the faults."""
    given = {"files": "500", "seed": "0", "only": "", "log": "", "kinds": ""} | dict(a.split("=", 1) for a in arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    limit_size(200)
    began, outcomes, faults = time.monotonic(), Counter(), []
    with tempfile.TemporaryDirectory(prefix="kdad_mutations_", ignore_cleanup_errors=True) as name:
        base = Path(name).resolve()
        train_run(base)
        kinds = [kind for kind in list_kinds(base) if not given["kinds"] or kind.name in given["kinds"].split(",")]
        (base / "work").mkdir()
        expected = {}
        for kind in kinds:
            for which, data in enumerate(kind.examples):
                path = base / "work" / f"mutated{kind.suffixes[which]}"
                path.write_bytes(data)
                expected[kind.name, which] = kind.read(path)
        seed, first = int(given["seed"]), int(given["only"] or 0)
        numbers = range(first, first + 1 if given["only"] else int(given["files"]))
        while numbers:
            done = run_batch(kinds, seed, numbers[:BATCH], base, expected, bool(given["only"]))
            numbers = numbers[len(done) :]
            for number, kind, way, outcome in done:
                outcomes[kind, way, outcome.split(":")[0]] += 1
                if outcome.startswith("fault"):
                    faults.append(f"only={number} seed={seed}: {kind}, {way}: {outcome}")
                    print(faults[-1], flush=True)
            if given["log"]:
                write_log(Path(given["log"]), outcomes, arguments, time.monotonic() - began)
    print(f"{sum(outcomes.values())} files, {len(faults)} faults, {time.monotonic() - began:.0f} s")
    return faults


def write_log(path: Path, counts: Counter, arguments: list[str], seconds: float) -> None:
    """Write the table of all files by kind and way."""
    sys.path.insert(0, str(Path(__file__).parent))
    from kills import describe_machine

    names = ("same", "other", "refused", "skipped", "fault")
    lines = ["# Files damaged and forged", "", f"    python experiments/trust/mutations.py {' '.join(arguments)}", "",
             f"At {describe_machine()}, {seconds:.0f} s. *Same*: the damage is not to be seen in what is read, as in a picture's margin; "
             "*other*: plausible other content; *refused*: a `UserError`; *skipped*: left out or computed anew, and said so; "
             "*fault*: anything else.", "",
             f"| file | damage | {' | '.join(names)} |", "|---|---|" + "--:|" * len(names)]  # fmt: skip
    for kind, way in dict.fromkeys((kind, way) for kind, way, _ in sorted(counts)):
        lines.append(f"| {kind} | {way} | {' | '.join(str(counts[kind, way, name]) for name in names)} |")
    total = [sum(n for (_, _, outcome), n in counts.items() if outcome == name) for name in names]
    lines.append(f"| **all {sum(total)}** | | {' | '.join(f'**{n}**' for n in total)} |")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
