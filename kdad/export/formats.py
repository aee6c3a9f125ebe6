"""The formats of an exported file: how each is written from a graph, and run again in its own runtime."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from kdad.export.graph import INPUT

Arrays = NDArray[Any]
Run = Callable[[Arrays], list[Arrays]]  # images (B, 3, H, W) -> what the graph returns
PROPERTY = "kdad"  # where a file of ONNX or torch keeps its card, too


@dataclass(frozen=True)
class Format:
    """A format: its suffix, what it can compute in, and how it is written into a folder and opened."""

    suffix: str
    precisions: tuple[str, ...]
    needs: tuple[str, ...]  # packages, of the extra `export`
    write: Callable[[ExportedProgram, Path, Sequence[str], str, Arrays], None]
    open: Callable[[Path], Run]


def write_torch(program: ExportedProgram, path: Path, names: Sequence[str], precision: str, images: Arrays) -> None:
    """Write a graph for torch.export.load. Its precision is the graph's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that lie inside a larger tensor
        torch.export.save(program, path)


def open_torch(path: Path) -> Run:
    """Return a function that runs a graph by torch, without kdad."""
    module = torch.export.load(path).module()

    def run(images: Arrays) -> list[Arrays]:
        with torch.inference_mode():
            return [output.numpy() for output in module(torch.from_numpy(images))]

    return run


def write_onnx(program: ExportedProgram, path: Path, names: Sequence[str], precision: str, images: Arrays) -> None:
    """Write a graph as ONNX. int8 takes the ranges of its activations from `images`."""
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        written = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=list(names), verbose=False
        )  # fmt: skip
        assert written is not None
        written.save(path)
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    elif precision == "int8":
        _quantise(path, images)


def _quantise(path: Path, images: Arrays) -> None:
    """Quantise the convolutions of an ONNX file; what makes maps and scores of their outputs stays in float32."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, Arrays] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image[None]}

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared = Path(folder) / path.name
        quantization.quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared, path, Reader(), op_types_to_quantize=["Conv"], per_channel=True, reduce_range=True,
            weight_type=quantization.QuantType.QInt8, activation_type=quantization.QuantType.QUInt8,
        )  # fmt: skip


def open_onnx(path: Path, name: str = INPUT) -> Run:
    """Return a function that runs an ONNX file by onnxruntime on the CPU; `name` is its input's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {name: images})


def write_openvino(program: ExportedProgram, path: Path, names: Sequence[str], precision: str, images: Arrays) -> None:
    """Write a graph as OpenVINO's .xml, with its weights in a .bin beside it. fp16 is what weights are kept in."""
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        between = Path(folder) / "graph.onnx"
        write_onnx(program, between, names, "int8" if precision == "int8" else "fp32", images)
        openvino.save_model(openvino.convert_model(between), path, compress_to_fp16=precision == "fp16")


def open_openvino(path: Path) -> Run:
    """Return a function that runs an OpenVINO file on the CPU, in float32 also where the processor has bf16 units."""
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = start_openvino().compile_model(path, "CPU", hints)
    return lambda images: [np.array(output) for output in compiled(images).values()]


@cache
def start_openvino() -> Any:
    """Return OpenVINO's core, one for the process.

    Each gives its thread an alternate stack for signals, and on its end the one that it found. Of two that do not end
    in turn, one that is no more stays, and the next signal, Ctrl-C too, is a segmentation fault.
    """
    import openvino

    return openvino.Core()


FORMATS = {
    "torch": Format(".pt2", ("fp32", "fp16"), (), write_torch, open_torch),
    "onnx": Format(".onnx", ("fp32", "fp16", "int8"), ("onnx", "onnxscript", "onnxruntime"), write_onnx, open_onnx),
    "openvino": Format(
        ".xml", ("fp32", "fp16", "int8"), ("onnx", "onnxscript", "onnxruntime", "openvino"), write_openvino,
        open_openvino,
    ),
}  # fmt: skip
