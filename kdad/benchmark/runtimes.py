"""One network in several runtimes, timed in turn on the same images."""

import copy
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from kdad.engine.costs import find_quartiles, time_in_turn
from kdad.errors import UserError
from kdad.export.formats import FORMATS
from kdad.export.graph import Judge, trace
from kdad.export.proof import compare
from kdad.geometry import as_pair
from kdad.inference.fold import fold_batch_norms
from kdad.models.base import KDDetector

Call = Callable[[Tensor], list[NDArray[Any]]]  # images (B, 3, H, W) -> maps and scores
EXPORTED = {  # runtime -> format and precision of the file that it runs
    "onnxruntime": ("onnx", "fp32"),
    "openvino": ("openvino", "fp32"),
    "onnxruntime-int8": ("onnx", "int8"),
    "openvino-int8": ("openvino", "int8"),
}
RUNTIMES = ("eager", "folded", "compile", *EXPORTED)
CALIBRATED = 8  # random images that int8 takes its ranges from


def choose_runtimes(wanted: list[str] | None) -> list[str]:
    """Return the runtimes to measure, eager first, which the others are compared with; of None all that are here.

    Raises `UserError` for one that kdad does not know, or that is asked for and not installed.
    """
    if unknown := [name for name in wanted or () if name not in RUNTIMES]:
        raise UserError(f"runtimes={','.join(unknown)}: give some of {', '.join(RUNTIMES)}")
    missing = {name: list_missing(name) for name in wanted or RUNTIMES}
    if wanted and any(missing.values()):
        name, packages = next((name, packages) for name, packages in missing.items() if packages)
        raise UserError(f"runtimes={name} needs {', '.join(packages)}: pip install 'kdad[export]'")
    return list(dict.fromkeys(["eager", *(name for name, packages in missing.items() if not packages)]))


def list_missing(runtime: str) -> list[str]:
    """Return the packages that a runtime needs and that are not installed."""
    needs = FORMATS[EXPORTED[runtime][0]].needs if runtime in EXPORTED else ()
    return [name for name in needs if find_spec(name) is None]


class Runtimes:
    """A network made ready for several runtimes. Use with `with`, since files lie in a temporary folder meanwhile.

    `calls` are those that could be made ready, `reasons` says why another could not.
    """

    def __init__(self, network: KDDetector, names: list[str], device: str, generator: torch.Generator):
        self.calls: dict[str, Call] = {}
        self.reasons: dict[str, str] = {}
        self._folder = tempfile.TemporaryDirectory()
        images = torch.rand(CALIBRATED, 3, *as_pair(network.image_size), generator=generator)
        self._images = images.to(device)
        self._graph: ExportedProgram | None = None
        folded: KDDetector | None = None
        for name in names:
            if name in EXPORTED and device != "cpu":  # their accelerators want packages of their own
                continue
            if name != "eager" and folded is None:
                folded = copy.deepcopy(network)
                fold_batch_norms(folded, self._images[:2])
            try:
                self.calls[name] = self._make_ready(name, folded or network)
            except Exception as error:  # a compiler or a runtime that this machine has not, or that cannot do this
                self.reasons[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]

    def __enter__(self) -> "Runtimes":
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.clear()  # before the files that they run
        with suppress(OSError):  # Windows keeps a file that is open
            self._folder.cleanup()

    def _make_ready(self, name: str, network: KDDetector) -> Call:
        judge: Any = Judge(network, None)
        if name in EXPORTED:
            format, precision = EXPORTED[name]
            path, images = Path(self._folder.name) / f"{name}{FORMATS[format].suffix}", self._images.numpy()
            self._graph = self._graph or trace(judge, self._images[:2])
            FORMATS[format].write(self._graph, path, judge.names, precision, images)
            run = FORMATS[format].open(path)
            return lambda images: run(images.numpy())
        if name == "compile":
            compiled = torch.compile(judge, dynamic=False)

            def judge(images: Tensor) -> tuple[Tensor, ...]:
                with torch.inference_mode(False), torch.no_grad():  # its guards stumble over inference tensors
                    return compiled(images)

            judge(self._images[:1])  # and finds out whether it can
        return lambda images: [found.cpu().numpy() for found in judge(images)]

    def measure(self, images: Tensor, repeats: int) -> dict[str, dict[str, Any]]:
        """Return for each runtime its time per image and how far it is from eager, or why there is none.

        Times are quartiles over `repeats` calls in seconds, the runtimes in turn, so that a busy moment of the machine
        meets all of them. The difference is the largest of maps and scores, as a share of their largest value.
        """
        laid = images.contiguous(memory_format=torch.channels_last)
        # Each is given images as it wants them in memory: laying them out anew is no part of it.
        given = {name: images.contiguous() if name in EXPORTED else laid for name in self.calls}
        times = time_in_turn({name: partial(call, given[name]) for name, call in self.calls.items()}, repeats)
        with torch.inference_mode():
            outputs = {name: call(given[name]) for name, call in self.calls.items()}
        found: dict[str, dict[str, Any]] = {}
        for name, seconds in times.items():
            errors = compare(outputs["eager"], outputs[name], ("anomaly_map", "score"))
            found[name] = {"seconds_per_image": find_quartiles(np.array(seconds) / len(images))}
            found[name]["difference"] = max(errors.values())
        return found | {name: {"reason": reason} for name, reason in self.reasons.items()}
