"""An exported file computes what the detector does, alone; and is not kept where it does not."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import kdad
from kdad.export import formats
from kdad.export.graph import Judge, trace, write_out_gradient
from kdad.export.proof import is_equal
from kdad.inference.fold import fold_batch_norms
from tests.inference.trained import MODELS, train

DOCS = Path(__file__).parents[2] / "docs/export.md"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """trained(model) -> a tiny detector, trained once for all tests."""
    known = {}

    def get(model):
        if model not in known:
            known[model] = train(model, tmp_path_factory.mktemp(model))
        return known[model]

    return get


@pytest.fixture
def export(command_line, tmp_path, capsys):
    """export(run, "key=value", ...) -> (exit status, the file, what was said)."""

    def call(run, *arguments, name="made.onnx"):
        output = tmp_path / name
        status = command_line("export", f"ckpt_path={run.folder}", f"output={output}", "images=6", *arguments)
        said = capsys.readouterr()
        return status, output, said.out + said.err

    return call


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture
def exported(trained, export, kept):
    """exported(model, format, name) -> an exported file, made once for all tests."""

    def get(model, format, name):
        file = kept / model / name
        if not file.exists():
            status, output, said = export(trained(model), f"format={format}", name=file)
            assert status == 0 and output == file, said
        return file

    return get


def read_images(run, n=5):
    detector = kdad.load(run.folder, device="cpu")
    paths = sorted(run.pictures.rglob("*.png"))[:n]
    images = torch.stack([detector.prepare(kdad.inference.pictures.open_picture(path)) for path in paths])
    return detector, images, images.float().div(255).numpy()


@pytest.mark.parametrize(
    ("model", "format", "name"),
    [("rd", "onnx", "a.onnx"), ("mkd", "onnx", "a.onnx"), ("dskd", "openvino", "a.xml"), ("stpm", "torch", "a.pt2")],
)
def test_the_file_gives_what_the_detector_gives(trained, exported, model, format, name):
    """On pictures that it was not proven on, in batches of other numbers."""
    run, output = trained(model), exported(model, format, name)
    detector, whole, images = read_images(run)
    scores, maps = detector.detect(whole)
    judge = formats.FORMATS[format].open(output)
    for part in (slice(0, 1), slice(0, 5)):
        found = judge(images[part])
        assert found[0].shape == (len(scores[part]), 1, 64, 64)
        assert np.abs(found[1] - scores[part]).max() <= 1e-4 * np.abs(scores).max()
        assert np.abs(found[0][:, 0] - maps[part]).max() <= (1e-2 if model == "mkd" else 1e-4) * maps.max()
        normalised = detector.decision.image.normalise(scores[part])
        assert np.abs(found[2] - normalised).max() < 1e-4
        clear = np.abs(normalised - 0.5) > 1e-4  # the threshold is the highest score of a training image
        assert clear.sum() >= len(clear) - 1
        assert np.array_equal(found[3][clear], (scores[part] > detector.decision.image_threshold)[clear])
    card = json.loads(output.with_name(f"{output.name}.json").read_text())
    assert card["decision"]["image_threshold"] == detector.decision.image_threshold
    assert card["teacher"]["fingerprint"] == detector.network.teacher.fingerprint
    assert card["proof"]["images"] == 6 and max(card["proof"]["errors"].values()) < 1


def test_a_rectangle_is_exported_too(tmp_path, export):
    run = train("stpm", tmp_path, "image_size=[64,96]")
    status, output, said = export(run, "format=torch", name="a.pt2")
    assert status == 0, said
    detector, whole, images = read_images(run, 3)
    scores, maps = detector.detect(whole)
    found = formats.FORMATS["torch"].open(output)(images)
    assert found[0].shape == (3, 1, 64, 96)
    assert np.abs(found[1] - scores).max() <= 1e-4 * np.abs(scores).max()
    assert np.abs(found[0][:, 0] - maps).max() <= 1e-4 * maps.max()
    card = json.loads(output.with_name(f"{output.name}.json").read_text())
    assert "64, 96" in card["input"]["shape"] and "96 x 64" in card["input"]["resize"]


def test_what_a_runtime_cannot_compute_is_a_sentence(trained, export, monkeypatch):
    """As onnxruntime's CPU has no ScatterElements in half precision, which a max-pool's gradient becomes."""

    def run(images):
        raise RuntimeError("ScatterElements is not implemented\nfor half precision")

    found = formats.FORMATS["torch"]
    broken = formats.Format(found.suffix, found.precisions, found.needs, found.write, lambda path: run)
    monkeypatch.setitem(formats.FORMATS, "torch", broken)
    status, output, said = export(trained("stpm"), "format=torch", name="a.pt2")
    assert status == 2 and not output.exists() and "Traceback" not in said
    assert said.strip().endswith(
        "format=torch precision=fp32: stpm does not run so: ScatterElements is not implemented"
    )


def test_a_file_that_computes_something_else_is_not_kept(trained, export, monkeypatch):
    """The convolution whose weights were moved is named."""
    import onnx
    from onnx import numpy_helper

    write = formats.write_onnx

    def spoil(program, path, *rest):
        write(program, path, *rest)
        model = onnx.load(path)
        layer = [node for node in model.graph.node if node.op_type == "Conv"][1]
        weights = next(w for w in model.graph.initializer if w.name == layer.input[1])
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.01, weights.name))
        onnx.save(model, path)

    found = formats.FORMATS["onnx"]
    spoiled = formats.Format(found.suffix, found.precisions, found.needs, spoil, found.open)
    monkeypatch.setitem(formats.FORMATS, "onnx", spoiled)
    status, output, said = export(trained("rd"), "format=onnx")
    assert status == 2 and "does not compute what the detector does" in said
    assert re.search(r"first layer that differs: (network\.)?teacher\.body\.\S*conv", said), said
    assert not list(output.parent.glob("made*"))


@pytest.mark.parametrize(("format", "name"), [("onnx", "a.onnx"), ("openvino", "a.xml")])
def test_int8_says_how_far_it_agrees(trained, export, format, name):
    status, output, said = export(trained("rd"), f"format={format}", "precision=int8", "min_agreement=0", name=name)
    assert status == 0, said
    card = json.loads(output.with_name(f"{output.name}.json").read_text())
    agreement = card["proof"]["agreement"]
    assert 0 < agreement["anomaly_map_error"] < 0.5 and 0 <= agreement["equal_decisions"] <= 1
    assert f"Equal decisions: {agreement['equal_decisions']:.3f}" in said


def test_a_file_that_agrees_too_little_is_not_kept(trained, export, monkeypatch):
    monkeypatch.setattr("kdad.export.writing.measure_agreement", lambda *given: {"equal_decisions": 0.75})
    arguments = "format=torch", "precision=fp16", "min_agreement=0.76"
    status, output, said = export(trained("stpm"), *arguments, name="a.pt2")
    assert status == 2 and "0.750 of 6 decisions" in said and "min_agreement=0.76" in said
    assert not list(output.parent.glob("a*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["format=tflite"], "format=tflite: give one of checkpoint, torch, onnx, openvino"),
        (["format=torch", "precision=int8"], "precision=int8: format=torch has fp32, fp16"),
        (["format=torch"], "is called <name>.pt2"),
        (["format=onnx", "normal=/nowhere"], "no such file or folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(trained, export, arguments, words):
    status, output, said = export(trained("rd"), *arguments)
    assert status == 2 and words in said and not output.exists()


def test_a_file_is_replaced_only_when_asked(trained, export, exported, tmp_path):
    for file in exported("stpm", "torch", "a.pt2").parent.iterdir():
        shutil.copy(file, tmp_path)
    status, output, said = export(trained("stpm"), "format=torch", name="a.pt2")
    assert status == 2 and "overwrite=true" in said
    before = output.read_bytes()
    assert (
        export(trained("stpm"), "format=torch", "overwrite=true", "precision=fp16", "min_agreement=0", name="a.pt2")[0]
        == 0
    )
    assert len(output.read_bytes()) < 0.75 * len(before)


@pytest.mark.parametrize("model", MODELS)
def test_folding_batch_norm_changes_outputs_by_rounding_alone(trained, model):
    detector, _, images = read_images(trained(model))
    network = detector.network
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):  # after one epoch they say little
        norm.running_mean.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    before = [part.detach() for part in network(torch.from_numpy(images))]
    assert fold_batch_norms(network, torch.from_numpy(images)) == norms
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    for a, b in zip(before, network(torch.from_numpy(images)), strict=True):
        assert (a - b).abs().max() <= 2e-6 * a.abs().max() if model != "mkd" else (a - b).abs().median() <= 1e-6


def test_a_convolution_that_is_used_twice_keeps_its_norm():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return (self.norm(y) + y,)

    network = Both().eval()
    network.norm.running_mean.fill_(0.5)
    x = torch.rand(2, 3, 8, 8)
    (before,) = network(x)
    assert fold_batch_norms(network, x) == 0 and torch.equal(network(x)[0], before)


def test_a_graph_leaves_the_detector_as_it_was(trained):
    detector, whole, images = read_images(trained("mkd"))
    before = detector.detect(whole)
    trace(Judge(detector.network, detector.decision), torch.from_numpy(images))
    for a, b in zip(before, detector.detect(whole), strict=True):
        assert np.array_equal(a, b)


class PaddedGradient(nn.Module):
    """The gradient of a convolution with TensorFlow's padding, which is another on each side."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, images):
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            padded = nn.functional.pad(images, (0, 1, 2, -1), value=0.5)
            loss = self.convolution(padded).square().sum()
            return torch.autograd.grad(loss, images)[0]


def test_padding_does_not_fix_the_number_of_images():
    """Of EfficientNet-Lite's weights, for one: its teacher's number of images was a constant of the graph."""
    network = PaddedGradient()
    images = torch.rand(5, 3, 9, 8)
    graph = write_out_gradient(network, images[:2])
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(graph, (images[:2],), dynamic_shapes=batch, strict=False).module()
    for n in (1, 5):
        assert torch.equal(program(images[:n]), network(images[:n]))


def test_a_map_that_is_a_gradient_may_jump_in_some_images_and_not_in_most():
    maps = np.random.default_rng(0).random((5, 1, 4, 4))
    names, scores = ("anomaly_map", "score"), np.ones(5)
    few, most, far = maps.copy(), maps.copy(), maps.copy()
    few[:2, 0, 0, 0] += 0.05
    most[:3, 0, 0, 0] += 0.05
    far[0, 0, 0, 0] += 0.2
    for found, right in ((maps, True), (few, True), (most, False), (far, False)):
        assert is_equal([maps, scores], [found, scores], names, jumps=True) == right
        assert is_equal([maps, scores], [found, scores], names, jumps=False) == (found is maps)
    assert not is_equal([maps, scores], [np.full_like(maps, np.nan), scores], names, jumps=True)
    assert not is_equal([maps, scores], [maps, scores * 1.001], names, jumps=True)


WITHOUT = """
import runpy, sys

class Hide:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "kdad", "timm"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Hide())
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize(("format", "name"), [("onnx", "a.onnx"), ("openvino", "a.xml"), ("torch", "a.pt2")])
def test_the_documented_script_decides_alike_without_kdad(trained, exported, tmp_path, format, name):
    run, output = trained("rd"), exported("rd", format, name)
    (tmp_path / "judge.py").write_text(re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1])
    deep = tmp_path / "deep.png"  # 16 bits of grey, as a camera may give them
    grey = np.random.default_rng(0).integers(0, 2**16, (70, 90)).astype(np.uint16)
    Image.fromarray(grey).save(deep)
    pictures = [*sorted(run.pictures.rglob("*.png")), deep]
    without = WITHOUT if format != "torch" else WITHOUT.replace('"torch", ', "")
    command = [sys.executable, "-c", without, "judge.py", output, *pictures]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    detector, clear = kdad.load(run.folder, device="cpu"), 0
    for path, line in zip(pictures, done.stdout.splitlines(), strict=True):
        name, score, normalised, word, area = line.rsplit(" ", 4)
        result = detector(path)
        assert name == str(path) and float(score) == pytest.approx(result.score, rel=1e-4)
        assert float(normalised) == pytest.approx(result.normalised, abs=1e-4)
        assert float(area) == pytest.approx(result.area, abs=1e-3)
        if abs(result.normalised - 0.5) > 1e-4:  # the threshold is the highest score of a training image
            assert (word == "anomalous") == result.is_anomalous
            clear += 1
    assert clear >= len(pictures) - 2


def test_a_signal_is_heard_after_openvino_files_were_run(tmp_path):
    pytest.importorskip("openvino")
    code = """
import signal, sys
from pathlib import Path
import numpy, openvino
from openvino import opset13
from kdad.export.formats import open_openvino

images = opset13.parameter([1, 3, 8, 8], numpy.float32)
openvino.save_model(openvino.Model([opset13.relu(images)], [images]), sys.argv[1])
first, second = (open_openvino(Path(sys.argv[1])) for _ in range(2))
for run in (first, second):
    run(numpy.zeros((1, 3, 8, 8), numpy.float32))
run = None
del first
del second
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
signal.raise_signal(signal.SIGTERM)
"""
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.xml")], capture_output=True, text=True)
    assert ended.returncode == 143, ended.stderr
