"""kdad against anomalib on the same images, in turn, each run in a fresh process: `make bench`, or

    python experiments/speed/peers.py [--quick]      # timings, with random weights
    python experiments/speed/peers.py accuracy       # STPM with EfficientNet-Lite0's weights on both sides
    python experiments/speed/peers.py table <json>   # the tables again, from what an earlier call has measured

Both sides: images of 128 px, ResNet-18, batches of 32 (STPM) or 16 (RD), fp32, RD's flattened loss, no validation, no
pictures, no log, one checkpoint at the end. `anomalib_runs.py` says what else is not anomalib's default.
"""

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

from runs import Setting, alone, compose, spread

BATCH = {"stpm": 32, "rd": 16}
EQUAL = {"stpm": (), "rd": ("model.loss=flattened",)}  # the peer's form, where the paper's is another
WARM_EPOCH, WHOLE, TEST = {"stpm": 2.2, "rd": 1.5}, 0.85, 2.0  # what is aimed at
BARE_EPOCHS = 5  # of the plain loop, and of bf16, whose whole runs nothing is compared with
# What each arm of the accuracy study gives kdad, or the name of anomalib's.
PEERS_STEP = ("optimizer.lr=12.8", "optimizer.weight_decay=3.125e-5")
ARMS = {
    "kdad, as the paper: 0.8 of the images, best epoch": ("val_fraction=0.2", "monitor=val_loss"),
    "kdad, all images, last epoch": (),
    "kdad, the same with anomalib's step": PEERS_STEP,
    "anomalib": "stpm",
    "anomalib, with the paper's step": "stpm_paper_step",
}


def timings(given, write):
    """Each model's runs in turn: kdad, anomalib, the plain loop, kdad in bf16."""
    runs = []
    for model in given.models.split(","):
        setting = Setting(
            model, given.data, place(given.data), given.epochs, given.threads, batch_size=BATCH[model],
            workers=given.workers,
        )  # fmt: skip
        short = setting._replace(epochs=min(given.epochs, BARE_EPOCHS))
        sides = {
            "kdad": ("runs", "kdad", setting, *EQUAL[model]),
            "anomalib": ("anomalib_runs", "anomalib", setting),
            "bare": ("runs", "bare", short, *EQUAL[model]),
            "bf16": ("runs", "kdad", short._replace(precision="bf16-mixed"), *EQUAL[model]),
        }
        for repeat in range(given.repeats):
            for side in given.sides.split(","):
                found = alone(*sides[side])
                runs.append({"model": model, "side": side, "repeat": repeat, **found})
                write(runs)
                print(f"{model}, {side}: {spread(speeds([runs[-1]]))} images/s", flush=True)
    return runs


def accuracy(given, write):
    """STPM's image AUROC, pixel AUROC and PRO on both sides, by kdad's metrics, and with each other's step."""
    runs = []
    setting = Setting(
        "stpm", given.data, place(given.data), given.epochs, given.threads, batch_size=BATCH["stpm"],
        backbone="efficientnet_lite0", pretrained=True, workers=given.workers,
    )  # fmt: skip
    for seed in map(int, given.seeds.split(",")):
        for arm, how in ARMS.items():
            if isinstance(how, str):
                found = alone("anomalib_runs", "scored", setting, how, seed)
            else:
                found = alone("runs", "scored", setting, f"seed={seed}", *how)
            runs.append({"arm": arm, "seed": seed, **found})
            write(runs)
            print(f"{arm}, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()), flush=True)
    return runs


def place(data):
    """`root`, in a process of its own: kdad sets what torch is to do with memory, which would be handed on to the peer."""
    return alone("peers", "root", data)


def root(data):
    """The folder with the data set's categories; the demo's photographs are written where they are missing."""
    from kdad.data.demo import write_demo

    name, _ = data.split("/")
    folder = Path(compose([f"dataset={name}"]).dataset.root).expanduser().resolve()
    if name == "demo":
        write_demo(folder)
    return str(folder)


def speeds(runs):
    """Images per second of each warm epoch: all but the first."""
    return [run["n_train"] / seconds for run in runs for seconds in run["epochs"][1:]]


def tables(found):
    """Markdown of what `timings` or `accuracy` has found."""
    given = found["settings"]
    head = f"{given['data']}, {given['epochs']} epochs, {given['threads']} threads, {found['versions']}"
    return f"{head}\n\n" + (accuracy_table if given["what"] == "accuracy" else timing_tables)(found["runs"])


def timing_tables(runs):
    models = dict.fromkeys(run["model"] for run in runs)
    return "\n".join(timing_table(model, [run for run in runs if run["model"] == model]) for model in models)


def timing_table(model, runs):
    """Ratios are of the runs of the same repeat, and above 1 where kdad is faster or takes less."""
    ours, peer, bare, half = (
        [run for run in runs if run["side"] == side] for side in ("kdad", "anomalib", "bare", "bf16")
    )
    lines = [f"**{model}**", "", "| | kdad | anomalib | ratio | aim |", "|---|---|---|---|---|"]

    def row(what, measure, digits=1, aim=None, faster_is_more=False):
        a, b = ([measure(run) for run in side] for side in (ours, peer))
        ratios = [x / y if faster_is_more else y / x for x, y in zip(a, b, strict=False)]
        cells = what, spread(a, digits), spread(b, digits), spread(ratios, 2), met(ratios, aim)
        lines.append(f"| {' | '.join(cells)} |")

    row("first epoch and all before it, images/s", lambda run: run["n_train"] / run["epochs"][0], faster_is_more=True)
    row("warm epochs (median of a run), images/s", warm, aim=WARM_EPOCH[model], faster_is_more=True)
    row("whole run, s", lambda run: run["whole"])
    row("test phase with its decoding and teacher, s", lambda run: run["test"], 2, TEST)
    row("the same with these cached, s", lambda run: run.get("test_warm", run["test"]), 2)
    row("metrics, s", lambda run: run["metrics"], 3)
    row("peak memory beyond imports and cache, MiB", lambda r: r["peak_mib"] - r["start_mib"] - r["cache_mib"], 0)
    ceiling = [warm(a) / warm(b) for a, b in zip(bare, peer, strict=False)]
    whole = [b["whole"] / a["whole"] / c for a, b, c in zip(ours, peer, ceiling, strict=False)]
    halves = [warm(a) / warm(b) for a, b in zip(half, ours, strict=False)]
    if ceiling:
        lines += [
            "",
            f"All warm epochs: kdad {spread(speeds(ours))}, anomalib {spread(speeds(peer))} images/s. The plain loop: "
            f"{spread(speeds(bare))}, so the ceiling, plain loop / anomalib, is {spread(ceiling, 2)}; the whole run's "
            f"ratio is {spread(whole, 2)} of it ({met(whole, WHOLE)}). The cache holds {ours[0]['cache_mib']:.0f} MiB.",
        ]
    if halves:
        lines.append(f"bf16: {spread(speeds(half))} images/s, {spread(halves, 2)} of fp32.")
    return "\n".join(lines) + "\n"


def warm(run):
    return statistics.median(speeds([run]))


def met(ratios, aim):
    return "" if aim is None else f">= {aim}: {'yes' if statistics.median(ratios) >= aim else 'no'}"


def accuracy_table(runs):
    keys = ["image_auroc", "pixel_auroc", "pro"]
    lines = ["| | seeds | image AUROC | pixel AUROC | PRO | by anomalib's metrics |", "|---|---|---|---|---|---|"]
    for arm in dict.fromkeys(run["arm"] for run in runs):
        rows = [run for run in runs if run["arm"] == arm]
        cells = [mean([run[key] for run in rows]) for key in keys]
        own = " / ".join(f"{statistics.fmean(r[f'own_{k}'] for r in rows):.4f}" for k in keys if f"own_{k}" in rows[0])
        lines.append(f"| {arm} | {', '.join(str(run['seed']) for run in rows)} | {' | '.join(cells)} | {own} |")
    return "\n".join(lines) + "\n"


def mean(values):
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{deviation}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["timings", "accuracy", "table"], default="timings")
    parser.add_argument("files", nargs="*", help="of `table`")
    parser.add_argument("--models", default="stpm,rd")
    parser.add_argument("--sides", default="kdad,anomalib,bare,bf16", help="bf16 takes long where no unit is for it")
    parser.add_argument("--data", help="<data set>/<category> in MVTec's layout (demo/brick; accuracy: mvtec/grid)")
    parser.add_argument("--epochs", type=int, help="20; accuracy: 30")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=0, help="of anomalib's loaders")
    parser.add_argument("--quick", action="store_true", help="3 epochs, once")
    parser.add_argument("--out", help="outputs/bench_<what>.json")
    given = parser.parse_args()
    if given.what == "table":
        for path in given.files:
            print(tables(json.loads(Path(path).read_text())))
        return
    study = given.what == "accuracy"
    given.data = given.data or ("mvtec/grid" if study else "demo/brick")
    given.epochs = given.epochs or (30 if study else 20)
    if given.quick:
        given.epochs, given.repeats, given.seeds = 3, 1, "0"
    out = Path(given.out or f"outputs/bench_{given.what}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # read by torch in each process
    packages = ("anomalib", "torch", "timm", "lightning", "numpy")
    found = {
        "settings": vars(given),
        "versions": ", ".join(f"{name} {version(name)}" for name in packages) + f", Python {platform.python_version()}",
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }

    def write(runs):
        out.write_text(json.dumps(found | {"runs": runs}, indent=1))

    runs = (accuracy if study else timings)(given, write)
    print(f"\n{tables(found | {'runs': runs})}\nWritten to {out}")


if __name__ == "__main__":
    main()
