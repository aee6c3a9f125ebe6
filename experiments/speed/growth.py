"""How costs grow with images, image size, levels and the jobs of a sweep: `python experiments/speed/growth.py`.

    python experiments/speed/growth.py [--repeats 2] [--threads 2]         # measure, write JSON, draw
    python experiments/speed/growth.py --draw outputs/growth.json          # draw again

STPM with a ResNet-18 of random weights on crops of scikit-image's photograph of bricks, fp32, cache in memory. Each
point is a `kdad.run` in a process of its own; a sweep's jobs share one.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage.data
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image
from runs import Setting, alone

from kdad.figures.style import PAGE, PALETTE, save_figure, use_style

IMAGES, SIDES, LEVELS = (50, 100, 200, 400, 800), (64, 96, 128, 192, 256), (1, 2, 3, 4)
JOBS = ("mkd", "rd", "stpm", "dskd")  # MKD first, since it asks for one level more than the others
COSTS = {
    "decoding, masks and teacher": lambda run: run["prepare"],
    "a warm epoch": lambda run: statistics.median(run["epochs"][1:]),
    "test and metrics": lambda run: run["test_warm"],
    "metrics": lambda run: run["metrics"],
}
MEMORY = {
    "cache": lambda run: run["cache_mib"],
    "beyond it": lambda run: run["peak_mib"] - run["start_mib"] - run["cache_mib"],
}


def photographs(root, count, side=128):
    """`count` normal images to train and half as many to test, of which every other has a grey square and a mask."""
    photograph, generator = skimage.data.brick(), np.random.default_rng(0)

    def crop():
        top, left = generator.integers(0, 512 - side, 2)
        return photograph[top : top + side, left : left + side].copy()

    def write(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    for i in range(count):
        write(root / f"brick/train/good/{i:04}.png", crop())
    for i in range(count // 2):
        pixels, mask = crop(), np.zeros((side, side), np.uint8)
        if i % 2:
            top, left = generator.integers(0, side * 3 // 4, 2)
            part = (slice(top, top + side // 6), slice(left, left + side // 6))
            pixels[part], mask[part] = 128, 255
            write(root / f"brick/ground_truth/square/{i:04}_mask.png", mask)
        write(root / f"brick/test/{'square' if i % 2 else 'good'}/{i:04}.png", pixels)
    return str(root)


def measure(given, write):
    """{"images" | "size" | "levels": {x: [a run per repeat]}, "sweep": [the jobs' runs, per repeat]}."""
    found = {"images": {}, "size": {}, "levels": {}, "sweep": []}

    def note(study, x, run):
        found[study].setdefault(str(x), []).append(run)
        costs = ", ".join(f"{name} {cost(run):.2f} s" for name, cost in COSTS.items())
        print(f"{study} {x}: {costs}; teacher {run['teacher_images']} images", flush=True)
        write(found)

    with tempfile.TemporaryDirectory() as folder:
        places = {n: photographs(Path(folder, str(n)), n) for n in sorted({*given.images, given.count})}
        large = photographs(Path(folder, "large"), given.count, max(given.sides))
        setting = Setting("stpm", "mvtec/brick", places[given.count], 3, given.threads, batch_size=32)
        for _ in range(given.repeats):
            for n in given.images:
                note("images", n, alone("runs", "kdad", setting._replace(root=places[n])))
            for side in given.sides:
                note("size", side, alone("runs", "kdad", setting._replace(root=large, image_size=side)))
            for count in LEVELS:
                levels = [4, 3, 2, 1][:count]
                note("levels", count, alone("runs", "kdad", setting, f"levels={sorted(levels)}"))
            found["sweep"].append(alone("runs", "sweep", *(setting._replace(model=job, epochs=1) for job in JOBS)))
            write(found)
            images = [run["teacher_images"] for run in found["sweep"][-1]]
            print(f"sweep of {', '.join(JOBS)}: {images} images through the teacher", flush=True)
    return found


def exponent(points, cost):
    """The slope of log cost over log x: 1 is linear. Over all points, and from the last but one to the last."""
    x = np.log([float(key) for key in points])
    y = np.log([statistics.median(cost(run) for run in runs) for runs in points.values()])
    return np.polyfit(x, y, 1)[0], (y[-1] - y[-2]) / (x[-1] - x[-2])


def by_pixels(found):
    return {int(side) ** 2: runs for side, runs in found["size"].items()}


def table(found):
    """Markdown: exponents, with images and with pixels, and the images that went through the teacher in a sweep."""
    pixels = by_pixels(found)
    lines = ["| cost | images: fit | last step | pixels: fit | last step |", "|---|---|---|---|---|"]
    for name, cost in (COSTS | {f"memory: {key}": value for key, value in MEMORY.items()}).items():
        cells = [f"{value:.2f}" for points in (found["images"], pixels) for value in exponent(points, cost)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| jobs of a sweep | images through the teacher | decoding, masks and teacher, s |", "|---|---|---|"]
    for job, runs in zip(JOBS, zip(*found["sweep"], strict=True), strict=True):
        seconds = statistics.median(run["prepare"] for run in runs)
        lines.append(f"| {job} | {runs[0]['teacher_images']} | {seconds:.2f} |")
    return "\n".join(lines)


@use_style()
def draw(found):
    """Four panels; points are medians, bars reach from the lowest to the highest of the repeats."""
    figure = Figure((PAGE, 5.2), layout="constrained")
    (images, sizes), (levels, jobs) = figure.subplots(2, 2)

    def lines(panel, points, costs, label="{}"):
        x = [float(key) for key in points]
        for number, (name, cost) in enumerate(costs.items()):
            values = [[cost(run) for run in runs] for runs in points.values()]
            middle = [statistics.median(v) for v in values]
            reach = [[abs(end(v) - m) for m, v in zip(middle, values, strict=True)] for end in (min, max)]
            text = label.format(name, *exponent(points, cost))
            panel.errorbar(x, middle, reach, label=text, marker="o", markersize=3, color=PALETTE[number])

    lines(images, found["images"], COSTS, "{}: exponent {:.2f}")
    images.set(title="Images", xlabel="training images, and half as many to test")
    lines(sizes, by_pixels(found), COSTS, "{}: exponent {:.2f}")
    sizes.set(title="Image size", xlabel="pixels of an image")
    for panel, ticks in (
        (images, {int(n): n for n in found["images"]}),
        (sizes, {int(side) ** 2: f"{side}$^2$" for side in found["size"]}),
    ):
        panel.set(xscale="log", yscale="log", ylabel="s")
        panel.set_xticks(list(ticks), list(ticks.values()))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_ylim(top=panel.get_ylim()[1] * 30)  # room for the legend
    lines(levels, found["levels"], {name: COSTS[name] for name in list(COSTS)[:3]})
    levels.set(title="Levels", xlabel="levels, from the deepest", ylabel="s", xticks=LEVELS)
    levels.set_ylim(0, levels.get_ylim()[1] * 1.4)
    n = found["sweep"][0][0]["n_train"] + found["sweep"][0][0]["n_test"]
    for number, runs in enumerate(found["sweep"]):
        passes = np.cumsum([run["teacher_images"] for run in runs]) / n
        label = None if number else "one sweep"
        jobs.plot(range(1, len(runs) + 1), passes, marker="o", markersize=3, label=label, color=PALETTE[0])
    jobs.plot(range(1, len(JOBS) + 1), range(1, len(JOBS) + 1), color="0.7", linestyle=":", label="each paying anew")
    jobs.set(title="Jobs of a sweep", xlabel="jobs", ylabel="passes through the teacher", ylim=(0, None))
    jobs.set_xticks(range(1, len(JOBS) + 1), [f"{i}: {job}" for i, job in enumerate(JOBS, 1)])
    for panel in (images, sizes, levels, jobs):
        panel.legend(loc="upper left")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", help="JSON of an earlier call")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="few and small points, once")
    parser.add_argument("--out", default="outputs/growth.json", help="where to write; the figure goes beside it")
    given = parser.parse_args()
    out = Path(given.draw or given.out)
    if given.draw:
        found = json.loads(out.read_text())["runs"]
    else:
        given.images, given.sides, given.count = IMAGES, SIDES, 100
        if given.quick:
            given.images, given.sides, given.count, given.repeats = (20, 40), (32, 64), 20, 1
        os.environ["OMP_NUM_THREADS"] = str(given.threads)  # read by torch in each process
        out.parent.mkdir(parents=True, exist_ok=True)
        head = {"settings": vars(given), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        found = measure(given, lambda runs: out.write_text(json.dumps(head | {"runs": runs}, indent=1)))
    print(f"\n{table(found)}\n")
    print("Written:", *save_figure(draw(found), out.parent, "growth"))


if __name__ == "__main__":
    main()
