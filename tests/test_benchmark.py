"""What a detector costs, against closed forms and hand counts; of timings only that they are some."""

import json
from itertools import pairwise

import hydra
import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdad.benchmark.counts import count_checkpoint_bytes, count_operations, count_tensor_bytes
from kdad.benchmark.measuring import measure_costs
from kdad.benchmark.runtimes import choose_runtimes
from kdad.benchmark.table import load_published_costs, print_costs
from kdad.engine.build import build_detector
from kdad.errors import UserError
from kdad.settings.compose import CONF

pytestmark = pytest.mark.slow  # processes of their own, or many seconds


def compose(*overrides):
    small = [
        "backbone=resnet18",
        "backbone.pretrained=false",
        "image_size=64",
        "batch_size=4",
        "repeats=3",
        "runtimes=[eager]",
    ]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("benchmark", [*small, *overrides])


def test_a_small_network_against_its_closed_form():
    """Two convolutions and a linear layer, images 2 x 3 x 8 x 8."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Flatten(),
        nn.Linear(6 * 4 * 4, 5),
    )  # fmt: skip
    counted = count_operations(network, torch.rand(2, 3, 8, 8))
    multiply_adds = 2 * (8 * 8 * 4 * 27 + 4 * 4 * 6 * 36 + 5 * 96)
    assert counted.flops == 2 * multiply_adds
    # Most is alive while the ReLU reads one tensor of 2 x 4 x 8 x 8 floats and writes another.
    assert counted.peak_bytes == 2 * (2 * 4 * 8 * 8) * 4
    assert count_tensor_bytes(network) == 4 * ((27 + 1) * 4 + (36 + 1) * 6 + 97 * 5)


def test_a_gradient_by_the_input_counts_as_much_again():
    class Gradient(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, images):
            with torch.enable_grad():
                x = images.clone().requires_grad_()
                return torch.autograd.grad(self.conv(x).square().sum(), x)[0]

    assert count_operations(Gradient(), torch.rand(1, 3, 8, 8)).flops == 2 * (2 * 8 * 8 * 4 * 27)


def test_views_and_weights_are_no_new_memory():
    network = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (4, 4)))
    assert count_operations(network, torch.rand(2, 8)).peak_bytes == 0
    assert count_operations(nn.Linear(8, 8, bias=False), torch.rand(2, 8)).peak_bytes == 2 * 8 * 4


def resnet18_by_hand(size):
    """(multiply-adds, parameters) of a ResNet-18 for 1,000 classes, layer by layer."""
    layers = [(3, 64, 7, size // 2)]  # inputs, outputs, kernel, side of the output
    side, widths = size // 4, (64, 64, 128, 256, 512)
    for stage, (before, width) in enumerate(pairwise(widths)):
        side //= 2 if stage else 1
        layers += [(before, width, 3, side), (width, width, 3, side), (width, width, 3, side), (width, width, 3, side)]
        layers += [(before, width, 1, side)] if stage else []
    convolutions = sum(i * o * k * k * s * s for i, o, k, s in layers)
    parameters = sum(i * o * k * k + 2 * o for i, o, k, _ in layers)  # each with its batch norm
    return convolutions + 512 * 1000, parameters + 512 * 1000 + 1000


def test_resnet18_against_a_hand_count():
    network = timm.create_model("resnet18.tv_in1k").eval()
    multiply_adds, parameters = resnet18_by_hand(224)
    assert (multiply_adds, parameters) == (1_814_073_344, 11_689_512)  # as known for this network
    images = torch.rand(1, 3, 224, 224)
    assert count_operations(network, images).flops == 2 * multiply_adds
    assert sum(p.numel() for p in network.parameters()) == parameters
    with torch.no_grad(), FlopCounterMode(display=False) as torchs:
        network(images)
    assert torchs.get_total_flops() == 2 * multiply_adds


def test_mkds_published_figures_are_multiply_adds_at_256_px():
    """DSKD Table 6: 20.96 G and 15.0 million for MKD, without the backward pass that its maps take."""
    mkd = build_detector(compose("model=mkd", "backbone=vgg16", "image_size=256")).eval()
    multiply_adds = (
        sum(count_operations(part, torch.rand(1, 3, 256, 256)).flops for part in (mkd.teacher, mkd.cloner)) / 2
    )
    known = {row["metric"]: float(row["value"]) for row in load_published_costs("mkd")}
    assert multiply_adds / 1e9 == pytest.approx(known["gigaflops"], abs=0.01)
    assert sum(p.numel() for p in mkd.parameters()) / 1e6 == pytest.approx(known["million_parameters"], abs=0.1)


@pytest.mark.parametrize("model", ["rd", "stpm", "mkd", "dskd"])
def test_every_detector_is_measured(model, capsys):
    costs = measure_costs(compose(f"model={model}"))
    json.dumps(costs)
    print_costs(costs)
    shown = capsys.readouterr().out
    one, four = costs["measured"] if not torch.cuda.is_available() else costs["measured"][:2]
    assert (one["batch"], four["batch"]) == (1, 4) and one["device"] == "cpu" and one["threads"] >= 1
    for entry in (one, four):
        times = entry["runtimes"]["eager"]["seconds_per_image"]
        assert 0 < times["low"] <= times["median"] <= times["high"] and entry["repeats"] == 3
    # Four images take longer than one, and four times their memory beyond the weights.
    first, last = (entry["runtimes"]["eager"]["seconds_per_image"] for entry in (one, four))
    assert 4 * last["median"] > first["low"]
    grown = (four["peak_bytes"] - costs["weights_bytes"]) / (one["peak_bytes"] - costs["weights_bytes"])
    assert 3 < grown < 5
    assert 0 < costs["parameters_trained"] < costs["parameters_total"]
    assert costs["weights"] == "random" and "random" in shown
    for row in costs["published"]:
        assert f"{row['value']} {row['unit']}" in " ".join(shown.replace("│", " ").split())


def test_stpm_is_two_networks_and_its_checkpoint_one():
    costs = measure_costs(compose("model=stpm"))
    assert costs["parameters_total"] == 2 * costs["parameters_trained"]
    detector = build_detector(compose("model=stpm"))
    student = count_tensor_bytes(detector.student)
    assert student < count_checkpoint_bytes(detector) < 1.02 * student


def test_the_teacher_is_the_models_unless_another_is_given():
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        names = [hydra.compose("benchmark", [f"model={m}"]).backbone.name for m in ("rd", "mkd", "stpm")]
    assert names == ["wide_resnet50_2.tv_in1k", "vgg16.tv_in1k", "resnet18.tv_in1k"]
    assert compose("model=mkd").backbone.name == "resnet18.tv_in1k"


def test_threads_are_set_and_given_back():
    before = torch.get_num_threads()
    costs = measure_costs(compose("model=stpm", "threads=2", "repeats=1"))
    assert costs["measured"][0]["threads"] == 2 and torch.get_num_threads() == before


def test_published_figures_are_the_methods_own_or_said_to_be_quoted():
    assert load_published_costs("stpm") == []
    assert {(r["metric"], r["value"], r["source"]) for r in load_published_costs("rd")} == {
        ("seconds", "0.31", "RD Table 3"), ("megabytes", "352", "RD Table 3"),
    }  # fmt: skip
    assert {r["source"] for r in load_published_costs("mkd")} == {"DSKD Table 6, quoted"}
    assert {r["metric"]: r["value"] for r in load_published_costs("dskd")} == {
        "seconds": "0.217", "gigaflops": "6.17", "million_parameters": "39.3", "megabytes": "105",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [("repeats=0", "repeats=0: give"), ("threads=0", "threads=0: give"), ("+batchsize=2", "batchsize: no such key")],
)
def test_bad_values(override, message):
    with pytest.raises(UserError, match=message):
        measure_costs(compose(override))


@pytest.mark.parametrize(
    ("model", "names", "tolerance"),
    [
        ("stpm", ["eager", "folded", "onnxruntime", "openvino", "onnxruntime-int8"], 1e-5),
        # The gradient of a network with ReLUs jumps, see kdad.export.proof; of random weights, more than there.
        ("mkd", ["eager", "folded"], 5e-2),
    ],
)
def test_every_runtime_computes_the_same(model, names, tolerance, capsys):
    """int8 of random weights is another matter: that it is measured is all."""
    tiny = ["backbone.name=test_resnet.r160_in1k", "levels=[1,2,3]", f"runtimes=[{','.join(names)}]"]
    costs = measure_costs(compose(f"model={model}", "repeats=1", *tiny))
    print_costs(costs)
    shown = capsys.readouterr().out
    for entry in costs["measured"]:
        assert list(entry["runtimes"]) == names
        for name, times in entry["runtimes"].items():
            assert f"{name} " in shown and times["seconds_per_image"]["median"] > 0
            assert times["difference"] <= (1 if name.endswith("int8") else tolerance), name


def test_runtimes_that_are_not_there_are_refused(monkeypatch):
    with pytest.raises(UserError, match="runtimes=tensorrt: give some of eager, folded"):
        choose_runtimes(["eager", "tensorrt"])
    monkeypatch.setattr("kdad.benchmark.runtimes.find_spec", lambda name: None)
    assert choose_runtimes(None) == ["eager", "folded", "compile"]
    with pytest.raises(UserError, match="runtimes=openvino needs onnx"):
        choose_runtimes(["openvino"])


def test_a_runtime_that_fails_says_why(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    costs = measure_costs(compose("model=stpm", "repeats=1", "runtimes=[folded,compile]"))
    found = costs["measured"][0]["runtimes"]
    assert found["compile"] == {"reason": "no compiler here"} and found["folded"]["difference"] < 1e-5
