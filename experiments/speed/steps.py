"""What a training step costs: `python experiments/speed/steps.py <what> [--threads 2]`; the functions below are the choices.

As in `core.py`, every ratio is of two things timed in turn in the same process, with random weights.
"""

import argparse
import resource
import time
from collections import Counter
from functools import partial

import torch
from core import BATCH, alternate, configuration, given_to, spread
from torch import nn

from kdad.engine.build import build_detector
from kdad.speed import Contiguous

CASES = (  # model, image size, batch, bf16
    ("stpm", 128, 32, False), ("rd", 64, 16, False), ("rd", 128, 16, False), ("rd", 128, 16, True), ("rd", 256, 8, False),
    ("rd", 256, 8, True), ("rd", 512, 4, False), ("dskd", 128, 16, False),
)  # fmt: skip
WARM_UP = 10  # steps that are not counted, until the process has all the memory that it needs


def training_step(model, *more, batch=None, half=False, change=None):
    """A function that takes one, in bf16 with `half`, on images and features made here; `change` is done to the detector."""
    cfg = configuration(model, *more)
    detector = build_detector(cfg).train()
    if change:
        change(detector)
    shape = batch or BATCH[model], 3, cfg.image_size, cfg.image_size
    sample = {"image": torch.rand(shape).contiguous(memory_format=torch.channels_last)}
    sample["features"] = detector.teacher_features(sample)
    optimizer = detector.configure_optimizers()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = detector.training_loss(sample)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def compiled(repeats):
    """A training step with and without `compile=true`."""
    for model, batch in BATCH.items():
        steps, first = {}, {}
        for name, on in (("eager", "false"), ("compiled", "true")):
            steps[name] = training_step(model, f"compile={on}")
            start = time.perf_counter()
            steps[name]()
            first[name] = time.perf_counter() - start
        seconds = alternate(repeats, **steps)
        ratios = [c / e for c, e in zip(seconds["compiled"], seconds["eager"], strict=True)]
        print(
            f"{model}, batch {batch}: first step {first['eager']:.1f} s and {first['compiled']:.1f} s, "
            f"compiled / eager step {spread(ratios)}",
            flush=True,
        )


def variants(repeats):
    """A training step with something left out that kdad does for speed, over one as it is."""
    for model, size, batch, half in CASES:
        given, how = f"image_size={size}", {"batch": batch, "half": half}
        plain = training_step(model, given, **how)
        steps = {"as it is": plain, "new memory filled": partial(filled, plain)}
        if model != "stpm":
            steps["embedding in channels last"] = training_step(model, given, **how, change=channels_last)
            steps["Adam not fused"] = training_step(model, given, "+optimizer.fused=false", **how)
        seconds = alternate(repeats, **steps)
        own = seconds.pop("as it is")
        found = (f"{k} {spread([a / b for a, b in zip(s, own, strict=True)])}" for k, s in seconds.items())
        print(
            f"{model} {size} px, batch {batch}{', bf16' if half else ''}: {spread(own)} s; {', '.join(found)} of it",
            flush=True,
        )


def filled(step):
    """As deterministic algorithms do by default."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    step()
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(False)


def channels_last(detector):
    for module in detector.modules():
        if isinstance(module, Contiguous):
            module.__class__ = nn.Sequential
    detector.to(memory_format=torch.channels_last)


def profile(repeats):
    """Shares of the operations in a training step, and the speed of STPM's first stage's 3x3 convolutions."""
    for model, batch in BATCH.items():
        step, spent = training_step(model), Counter()
        for _ in range(WARM_UP):
            step()
        with torch.profiler.profile(record_shapes=True) as seen:
            for _ in range(repeats):
                step()
        for event in seen.key_averages():
            spent[event.key] += event.self_cpu_time_total
        print(f"{model}:", ", ".join(f"{name} {time / spent.total():.1%}" for name, time in spent.most_common(8)))
        shapes = [[batch, 64, 32, 32], [64, 64, 3, 3]]
        for event in seen.key_averages(group_by_input_shape=True) if model == "stpm" else ():
            if event.key == "aten::mkldnn_convolution" and event.input_shapes[:2] == shapes:
                speed = 2 * batch * 64 * 64 * 3 * 3 * 32 * 32 * event.count / event.self_cpu_time_total / 1e3
                print(f"64 to 64 channels at 32 px, forward: {speed:.0f} GFLOP/s")


def faults(repeats):
    """Page faults and CPU time of a training step; `THP_MEM_ALLOC_ENABLE=0 ... --memory default` is without kdad's doing."""
    for model in BATCH:
        step, pages, seconds = training_step(model), [], []
        for _ in range(WARM_UP + repeats):
            before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
            step()
            seconds.append(time.process_time() - start)
            pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        pages, seconds = pages[WARM_UP:], seconds[WARM_UP:]
        print(f"{model}: {spread(pages, 0)} page faults, {spread(seconds)} s of CPU time", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    choices = {"compile": compiled, "variants": variants, "profile": profile, "faults": faults}
    parser.add_argument("what", choices=choices)
    given = given_to(parser)
    choices[given.what](given.repeats)
