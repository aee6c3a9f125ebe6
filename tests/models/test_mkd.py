"""What MKD means: where it looks, what it trains, what its switches change."""

import math
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from kdad.errors import UserError
from kdad.models import mkd
from kdad.models.mkd import (
    MKD,
    choose_last_pools,
    direction_losses,
    localization_map,
    scale_per_image,
    total_loss,
    value_losses,
)
from kdad.teacher import Teacher
from tests.conftest import share

VGG16 = ["features.9", "features.16", "features.23", "features.30"]


@pytest.fixture(scope="module")
def build(tiny_resnet, adam):
    torch.manual_seed(1)
    return share(partial(MKD, backbone=tiny_resnet, optimizer=adam, image_size=64))


@pytest.fixture(scope="module")
def build_resnet18(random_resnet18, adam):
    torch.manual_seed(1)
    return share(partial(MKD, backbone=random_resnet18, optimizer=adam, image_size=64))


def images(n=3, size=64):
    return torch.rand(n, 3, size, size)


def batches(*sizes):
    return [{"image": images(n)} for n in sizes]


def losses_of(detector, batch):
    pairs = detector.pairs(batch)
    return value_losses(*pairs), direction_losses(*pairs)


# The critical points and the cloner ------------------------------------------------------------------------


@pytest.mark.slow
def test_critical_points_of_vgg16_are_the_outputs_of_its_last_four_max_pools(adam):
    assert choose_last_pools("vgg16.tv_in1k") == VGG16
    detector = MKD(backbone=partial(Teacher, name="vgg16.tv_in1k", pretrained=False), optimizer=adam, image_size=64)
    assert detector.teacher.paths == VGG16
    assert detector.teacher.shapes == [(128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    widths = [m.out_channels for m in detector.cloner.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [16, 16, 16, 128, 16, 16, 256, 16, 16, 512, 16, 16, 512]  # Fig. 2
    assert [[type(m) for m in stage][-2:] for stage in detector.cloner.stages] == [[nn.ReLU, nn.MaxPool2d]] * 5


def test_critical_points_of_other_pyramids(build):
    assert build().teacher.strides == [4, 8, 16, 32]
    assert choose_last_pools("vgg16_bn.tv_in1k") == ["features.13", "features.23", "features.33", "features.43"]
    with pytest.raises(UserError, match="no feature pyramid with strides 4, 8, 16, 32"):
        choose_last_pools("vit_tiny_patch16_224.augreg_in21k_ft_in1k")


def test_a_level_is_linear_where_the_teachers_is(build_resnet18):
    batch = images()
    assert all(f.min() >= 0 for f in build_resnet18().cloner(batch))  # ResNet's stages end in a ReLU
    linear = build_resnet18(levels=["layer1.1.bn1", "layer2.1.bn1"])
    assert all(f.min() < 0 for f in linear.cloner(batch))


# What is trained ------------------------------------------------------------------------------------------


def test_only_the_cloner_is_trained(build):
    detector = build()
    trained = {id(p) for group in detector.configure_optimizers().param_groups for p in group["params"]}
    assert trained == {id(p) for p in detector.cloner.parameters()}
    detector.training_loss({"image": images()})["loss"].backward()
    assert all(p.grad is None for p in detector.teacher.parameters())
    assert all(p.grad is not None for p in detector.cloner.parameters())


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_lambda_makes_both_terms_the_same_over_the_training_set(build, norm):
    """Mean L_val over mean L_dir of the untrained cloner, every image counting once, in a buffer of the checkpoint."""
    detector, data = build(norm=norm), batches(4, 4, 2)
    detector.before_fit(iter(data))
    detector.train()  # the losses that the first step would see
    value, direction = (torch.cat(parts, dim=1) for parts in zip(*(losses_of(detector, b) for b in data), strict=True))
    assert value.shape == direction.shape == (4, 10)
    found = detector.state_dict()["direction_weight"].item()
    assert found == pytest.approx((value.sum(0).mean() / direction.sum(0).mean()).item(), rel=1e-5)
    fresh = build(norm=norm)
    fresh.load_state_dict(detector.state_dict())
    assert fresh.direction_weight.item() == found


def test_before_fit_leaves_the_cloner_alone(build):
    detector = build(norm="batch")
    before = {key: value.clone() for key, value in detector.cloner.state_dict().items()}
    detector.before_fit(iter(batches(4)))
    assert all(torch.equal(before[key], value) for key, value in detector.cloner.state_dict().items())


def test_lambda_is_of_all_processes(build, monkeypatch):
    """Each sees a part of the training images; what the others found is added before the division."""
    detector, mine, theirs = build(), batches(4), batches(6)
    value, direction = losses_of(detector, theirs[0])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    others = torch.stack([value.sum(), direction.sum()]).detach()
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.add_(others))
    detector.before_fit(iter(mine))
    found, alone = detector.direction_weight.item(), build()
    alone.load_state_dict(detector.state_dict())
    monkeypatch.undo()
    alone.before_fit(iter(mine + theirs))
    assert found == pytest.approx(alone.direction_weight.item(), rel=1e-5)


def test_a_fixed_lambda(build):
    """The released code's form: 2 for its 0.5, whatever the training set says."""
    detector, data = build(weight=2), batches(4)
    detector.before_fit(iter(data))
    assert detector.direction_weight.item() == 2
    value, direction = losses_of(detector, data[0])
    expected = (value.sum(0) + 2 * direction.sum(0)).mean()
    torch.testing.assert_close(detector.training_loss(data[0])["loss"], expected)
    # It can be changed to test with, and what was found can be used with any other.
    other = build(weight=5)
    other.load_state_dict(detector.state_dict())
    value, direction = losses_of(other, data[0])
    torch.testing.assert_close(other(data[0]["image"]).image_score, (value.sum(0) + 5 * direction.sum(0)).detach())


@pytest.mark.parametrize("loss", ["total", "val", "dir"])
def test_figure_5_losses(build, loss):
    detector, batch = build(loss=loss, weight=3.0), {"image": images()}
    value, direction = (part.sum(0).detach() for part in losses_of(detector, batch))
    expected = {"total": value + 3 * direction, "val": value, "dir": direction}[loss]
    found = detector.training_loss(batch)
    torch.testing.assert_close(found["loss"].detach(), expected.mean())
    torch.testing.assert_close(found["loss_value"].detach(), value.mean())
    torch.testing.assert_close(found["loss_direction"].detach(), direction.mean())
    torch.testing.assert_close(detector(batch["image"]).image_score, expected)


@pytest.mark.parametrize(("count", "levels"), [(1, [4]), (2, [3, 4]), (4, [1, 2, 3, 4])])
def test_figure_3_critical_points_leave_the_losses_not_the_cloner(build, count, levels):
    detector, batch = build(critical_points=count, weight=3), {"image": images()}
    assert detector.critical_points == detector.score_levels == levels
    value, direction = losses_of(detector, batch)
    expected = sum(value[k - 1] + 3 * direction[k - 1] for k in levels).detach()
    torch.testing.assert_close(detector.training_loss(batch)["loss"].detach(), expected.mean())
    torch.testing.assert_close(detector(batch["image"]).image_score, expected)
    shapes = [[p.shape for p in d.cloner.parameters()] for d in (detector, build())]
    assert shapes[0] == shapes[1]


def test_score_levels_are_those_of_the_score_alone(build):
    """The released code's form: four points in the loss and in the map, the last three in the score."""
    whole, detector, batch = build(weight=3), build(weight=3, score_levels=[2, 3, 4]), images()
    detector.load_state_dict(whole.state_dict())
    value, direction = losses_of(detector, {"image": batch})
    torch.testing.assert_close(detector(batch).image_score, total_loss(value[1:], direction[1:], 3).detach())
    torch.testing.assert_close(detector(batch).anomaly_map, whole(batch).anomaly_map)
    losses = [d.training_loss({"image": batch})["loss"] for d in (whole, detector)]
    assert losses[0] == losses[1]


def test_saliency_levels_are_those_of_the_map_alone(build):
    """The gradient is that of their losses, here the second level's; score and training stay those of all."""
    whole, detector = tiny(build), tiny(build, saliency_levels=[2])
    detector.load_state_dict(whole.state_dict())
    batch = images(2, 16).double()
    x = batch.clone().requires_grad_()
    teacher, student = detector.teacher_features({"image": batch}), detector.cloner(detector.normalise(x))
    loss = (teacher[1] - student[1]).square().mean(dim=(1, 2, 3))
    loss = loss + 0.7 * (1 - F.cosine_similarity(teacher[1].flatten(1), student[1].flatten(1)))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    expected = mkd.localization_map(gradient.abs().sum(dim=1), 0.0)
    found = detector(batch)
    torch.testing.assert_close(found.anomaly_map[:, 0], expected)
    assert not torch.allclose(found.anomaly_map, whole(batch).anomaly_map)
    assert torch.equal(found.image_score, whole(batch).image_score)
    assert detector.training_loss({"image": batch})["loss"] == whole.training_loss({"image": batch})["loss"]


def test_equal_cloner(build_resnet18):
    widths = [m.out_channels for m in build_resnet18(cloner="equal").cloner.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [32] * 2 + [64] * 2 + [128] * 3 + [256] * 3 + [512] * 3  # ResNet-18's channels on VGG-16's plan


# Where it looks -------------------------------------------------------------------------------------------


def test_cloner_equal_to_teacher_gives_a_zero_score(build, monkeypatch):
    """And a map of the gradient that is left, none."""
    detector, batch = build(), images()
    teacher = detector.teacher_features({"image": batch})

    class Same(nn.Module):
        def forward(self, x, relu=None):
            return [f + 0 * x.mean(dim=(1, 2, 3), keepdim=True) for f in teacher]

    monkeypatch.setattr(detector, "cloner", Same())
    detection = detector(batch)
    assert detection.image_score.abs().max() < 1e-5 and detection.anomaly_map.abs().max() < 1e-5
    assert detector.training_loss({"image": batch})["loss"].abs() < 1e-5


def tiny(build, **changed):
    """A detector in double precision on 8 pixels, whose maps have no Gaussian."""
    return build(image_size=16, levels=["conv1", "layer1"], weight=0.7, sigma=0.0, **changed).double().eval()


@pytest.mark.parametrize("gradient_through_teacher", [False, True])
def test_the_map_is_the_gradient_by_finite_differences(build, monkeypatch, gradient_through_teacher):
    """Pixel by pixel: the change of that image's own L_total, with the teacher's features held or not."""
    detector = tiny(build, gradient_through_teacher=gradient_through_teacher)
    monkeypatch.setattr(mkd, "opening", lambda maps: maps)
    batch, step = images(2, 16).double(), 1e-6
    held = detector.teacher_features({"image": batch})
    pixels, expected = [(0, 0), (3, 11), (8, 8), (15, 2)], torch.zeros(2, 4, dtype=torch.float64)

    @torch.no_grad()
    def score(x):
        teacher = detector.teacher_features({"image": x}) if gradient_through_teacher else held
        student = detector.cloner(detector.normalise(x))
        return total_loss(value_losses(teacher, student), direction_losses(teacher, student), 0.7)

    for p, (row, column) in enumerate(pixels):
        for channel in range(3):
            moved = torch.zeros_like(batch)
            moved[:, channel, row, column] = step
            expected[:, p] += ((score(batch + moved) - score(batch - moved)) / (2 * step)).abs()
    found = detector(batch).anomaly_map[:, 0]
    found = torch.stack([found[:, row, column] for row, column in pixels], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def test_the_map_is_eq_6_of_the_magnitudes(build):
    detector, batch = build(), images()
    x = batch.clone().requires_grad_()
    teacher = detector.teacher_features({"image": batch})
    student = detector.cloner(detector.normalise(x))
    total = total_loss(value_losses(teacher, student), direction_losses(teacher, student), 1.0)
    for b in range(3):  # each image's own loss, one backward pass for each
        (gradient,) = torch.autograd.grad(total[b], x, retain_graph=True)
        expected = localization_map(gradient[b].abs().sum(dim=0)[None], 4.0)
        torch.testing.assert_close(detector(batch).anomaly_map[b], expected, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_a_planted_square_is_where_the_map_peaks(adam):
    """A cloner trained on plain images: a bright square in another is where its loss comes from."""
    torch.manual_seed(0)
    teacher = partial(Teacher, name="resnet18.tv_in1k", pretrained=False)
    detector = MKD(backbone=teacher, optimizer=partial(torch.optim.Adam, lr=1e-3), image_size=64, weight=1.0)
    optimizer, plain = detector.configure_optimizers(), 0.4 + 0.05 * images(8)
    for _ in range(30):
        optimizer.zero_grad()
        detector.training_loss({"image": plain})["loss"].backward()
        optimizer.step()
    test = 0.4 + 0.05 * images(4)
    test[1, :, 36:56, 8:28] = 1.0
    detection = detector.eval()(test)
    row, column = divmod(detection.anomaly_map[1, 0].argmax().item(), 64)
    assert 32 <= row < 60 and 4 <= column < 32
    assert detection.image_score.argmax() == 1


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("saliency", ["gradient", "smoothgrad", "guided"])
def test_the_batch_size_does_not_change_a_map(build, monkeypatch, saliency, norm):
    monkeypatch.setattr(mkd, "SMOOTHGRAD_SAMPLES", 3)
    detector, batch = build(saliency=saliency, norm=norm, scaling="per_image").eval(), images(5)
    together = detector(batch)
    for part in (slice(0, 1), slice(1, 4), slice(4, 5)):
        alone = detector(batch[part])
        # Scaled to 1; a ReLU whose input rounds to the other side of 0 moves a few pixels.
        torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[part], rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(alone.image_score, together.image_score[part], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_smoothgrad_is_the_mean_over_noisy_copies(build, monkeypatch):
    """Both networks see the noisy image; noise of 5 % of the input range, 50 copies."""
    assert (mkd.SMOOTHGRAD_SAMPLES, mkd.SMOOTHGRAD_NOISE) == (50, 0.05)
    monkeypatch.setattr(mkd, "SMOOTHGRAD_SAMPLES", 4)
    detector, batch = build(saliency="smoothgrad", weight=1.0), images(2)
    generator, total = torch.Generator().manual_seed(0), torch.zeros(2, 3, 64, 64)
    for _ in range(4):
        x = (batch + 0.05 * torch.randn(3, 64, 64, generator=generator)).requires_grad_()
        teacher = detector.teacher(detector.normalise(x.detach()))
        student = detector.cloner(detector.normalise(x))
        total_loss(value_losses(teacher, student), direction_losses(teacher, student), 1.0).sum().backward()
        total += x.grad / 4
    expected = localization_map(total.abs().sum(dim=1), 4.0)
    found = detector(batch)
    torch.testing.assert_close(found.anomaly_map[:, 0], expected, rtol=1e-4, atol=1e-9)
    assert torch.equal(found.anomaly_map, detector(batch).anomaly_map)  # the same again
    plain = build(weight=1.0)
    plain.load_state_dict(detector.state_dict())
    torch.testing.assert_close(found.image_score, plain(batch).image_score)  # of the image itself


def test_guided_backpropagation_filters_the_cloners_gradients(build):
    """Against hooks on the ReLUs, an independent way to the same quantity."""
    detector, batch = build(saliency="guided", weight=1.0), images(2)

    class Hooked(nn.ReLU):
        def forward(self, x):
            out = F.relu(x)
            out.register_hook(lambda gradient: gradient.clamp_min(0))
            return out

    relu, x = Hooked(), batch.clone().requires_grad_()
    teacher = detector.teacher_features({"image": batch})
    student = detector.cloner(detector.normalise(x), relu)
    total_loss(value_losses(teacher, student), direction_losses(teacher, student), 1.0).sum().backward()
    found = detector(batch)
    expected = localization_map(x.grad.abs().sum(dim=1), 4.0)
    torch.testing.assert_close(found.anomaly_map[:, 0], expected, rtol=1e-4, atol=1e-9)
    plain = build(weight=1.0)
    plain.load_state_dict(detector.state_dict())
    torch.testing.assert_close(found.image_score, plain(batch).image_score)
    assert not torch.allclose(found.anomaly_map, plain(batch).anomaly_map)


@pytest.mark.slow
@pytest.mark.parametrize(("saliency", "passes"), [("gradient", 1), ("guided", 1), ("smoothgrad", 50)])
def test_backward_passes_for_a_batch(build, monkeypatch, saliency, passes):
    count = []
    monkeypatch.setattr(mkd, "input_gradient", lambda losses, x: count.append(1) or torch.zeros_like(x))
    detector = build(saliency=saliency, image_size=32)
    detector(images(2, 32))
    assert len(count) == passes


def test_per_image_scaling_comes_before_the_gaussian(build):
    detector, batch = build(sigma=0.0), images()
    detector.eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mkd, "opening", lambda maps: maps)
        raw = detector(batch).anomaly_map[:, 0]
    detector.scaling, detector.sigma = mkd.SCALINGS["per_image"], 4.0
    torch.testing.assert_close(detector(batch).anomaly_map[:, 0], localization_map(scale_per_image(raw), 4.0))


# Under any Trainer ----------------------------------------------------------------------------------------


class Photographs(Dataset):
    """Batches as a data module's, with the teacher's features where they were cached."""

    def __init__(self, batch, features=None):
        self.batch, self.features = batch, features

    def __len__(self):
        return len(self.batch)

    def __getitems__(self, rows):
        found = {"image": self.batch[rows], "label": torch.zeros(len(rows)), "index": torch.tensor(rows)}
        return found | ({} if self.features is None else {"features": [f[rows] for f in self.features]})


@pytest.mark.slow
@pytest.mark.parametrize("gradient_through_teacher", [False, True])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("inference_mode", [False, True])
def test_maps_under_the_trainer_are_those_of_forward(build, inference_mode, cached, gradient_through_teacher):
    detector, batch = build(weight=1.0, gradient_through_teacher=gradient_through_teacher).eval(), images(5)
    expected = detector(batch)
    data = Photographs(batch, detector.teacher_features({"image": batch}) if cached else None)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        inference_mode=inference_mode, enable_checkpointing=False,
    )  # fmt: skip
    found = trainer.predict(detector, DataLoader(data, 2, collate_fn=lambda batch: batch))
    maps, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
    torch.testing.assert_close(maps, expected.anomaly_map, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(scores, expected.image_score, rtol=1e-5, atol=1e-6)
    assert not maps.requires_grad and not scores.requires_grad


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_forward_leaves_no_graph_and_no_gradients(build, mode):
    detector = build().eval()
    with mode():
        detection = detector(images())
    assert not detection.anomaly_map.requires_grad and not detection.image_score.requires_grad
    assert all(p.grad is None for p in detector.parameters())
    assert detection.anomaly_map.shape == (3, 1, 64, 64) and detection.image_score.shape == (3,)


def test_inference_is_in_full_precision_under_autocast(build):
    detector, batch = build().eval(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = detector(batch)
    expected = detector(batch)
    assert torch.equal(found.anomaly_map, expected.anomaly_map) and torch.equal(found.image_score, expected.image_score)


def test_dead_cloner(build):
    """A cloner that says nothing: L_dir is 1 at every point, its gradients are finite, the map is empty."""
    detector, batch = build(weight=1.0), {"image": images()}
    for p in detector.cloner.parameters():
        nn.init.zeros_(p)
    losses = detector.training_loss(batch)
    losses["loss"].backward()
    assert losses["loss_direction"].item() == 4
    assert all(torch.isfinite(p.grad).all() for p in detector.cloner.parameters())
    assert detector(batch["image"]).anomaly_map.abs().max() == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cloner": "large"}, "model.cloner=large: give one of compact, equal"),
        ({"norm": "layer"}, "model.norm=layer: give one of none, batch"),
        ({"loss": "cosine"}, "model.loss=cosine: give one of total, val, dir"),
        ({"weight": "auto"}, "model.weight=auto: give initial or a number"),
        ({"weight": -1}, "model.weight=-1"),
        ({"weight": math.inf}, "model.weight=inf"),
        ({"weight": True}, "model.weight=True"),
        ({"critical_points": 0}, "model.critical_points=0: give a number from 1 to 4"),
        ({"critical_points": 5}, "model.critical_points=5"),
        ({"score_levels": []}, "count the levels from 1 to 4"),
        ({"score_levels": [5]}, "count the levels from 1 to 4"),
        ({"score_levels": [2], "critical_points": 2}, r"model.score_levels=\[2\]: only \[3, 4\]"),
        ({"saliency_levels": [2], "critical_points": 2}, r"model.saliency_levels=\[2\]: only \[3, 4\]"),
        ({"saliency_levels": [5]}, r"model.saliency_levels=\[5\]: count the levels from 1 to 4"),
        ({"saliency": "lime"}, "model.saliency=lime: give one of gradient, smoothgrad, guided"),
        ({"scaling": "minmax"}, "model.scaling=minmax: give one of none, per_image"),
        ({"gradient_through_teacher": "yes"}, "model.gradient_through_teacher=yes"),
        ({"sigma": -1.0}, "model.sigma=-1.0"),
        ({"sigma": np.nan}, "model.sigma=nan"),
        ({"image_size": 28}, "image_size=28: must be a multiple of 32"),
    ],
)
def test_wrong_values_are_named(build, wrong, message):
    with pytest.raises(UserError, match=message):
        build(**wrong)
