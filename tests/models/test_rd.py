"""What RD means: where it looks, what it trains, what its switches change."""

from functools import partial

import pytest
import torch

from kdad.errors import UserError
from kdad.functional import gaussian_blur
from kdad.models import rd
from kdad.models.rd import RD
from kdad.teacher import Teacher
from tests.conftest import share

SHARED = {"image_size": 64}


@pytest.fixture(scope="module")
def build(tiny_resnet, adam):
    return share(partial(RD, backbone=tiny_resnet, optimizer=adam, **SHARED))


def images(n=4, size=64):
    return torch.rand(n, 3, size, size)


def test_student_equal_to_teacher_gives_a_zero_map(build, monkeypatch):
    detector = build().eval()
    features = detector.teacher_features({"image": images()})
    monkeypatch.setattr(detector, "pairs", lambda batch: (features, [f.clone() for f in features]))
    detection = detector(images())
    assert detection.anomaly_map.abs().max() < 1e-6 and detection.image_score.abs().max() < 1e-6
    assert detector.training_loss({"image": images()})["loss"].abs() < 1e-6


def test_a_planted_square_is_where_the_map_peaks(build, monkeypatch):
    """The student restores everything but a square, rows 40-56 and columns 8-24 of the image."""
    detector = build().eval()
    teacher = detector.teacher_features({"image": images()})
    student = [f.clone() for f in teacher]
    for f, stride in zip(student, (4, 8, 16), strict=True):
        f[1, :, 40 // stride : 56 // stride, 8 // stride : 24 // stride] *= -1
    monkeypatch.setattr(detector, "pairs", lambda batch: (teacher, student))
    detection = detector(images())
    row, column = divmod(detection.anomaly_map[1, 0].argmax().item(), 64)
    assert 40 <= row < 56 and 8 <= column < 24
    assert detection.image_score.argmax() == 1


def test_shapes_and_score(build):
    detection = build().eval()(images())
    assert detection.anomaly_map.shape == (4, 1, 64, 64) and detection.image_score.shape == (4,)
    assert torch.equal(detection.image_score, detection.anomaly_map.amax(dim=(1, 2, 3)))
    summed = build(image_score="sum").eval()(images())
    torch.testing.assert_close(summed.image_score, summed.anomaly_map.sum(dim=(1, 2, 3)))


def test_only_the_student_is_trained(build):
    detector = build()
    trained = {id(p) for group in detector.configure_optimizers().param_groups for p in group["params"]}
    student = {id(p) for m in (detector.bottleneck, detector.decoder) for p in m.parameters()}
    assert trained == student
    detector.training_loss({"image": images()})["loss"].backward()
    assert all(p.grad is None for p in detector.teacher.parameters())
    assert all(p.grad is not None for m in (detector.bottleneck, detector.decoder) for p in m.parameters())


def test_loss_is_the_equations_on_the_networks_features(build):
    detector, batch = build().eval(), {"image": images()}
    pairs = detector.pairs(batch)
    losses = detector.training_loss(batch)
    assert losses["loss"].item() == rd.per_position_loss(*pairs).mean(1).sum().item()
    assert losses["loss"].item() == pytest.approx(sum(losses[f"loss_level_{k}"].item() for k in (1, 2, 3)), rel=1e-6)
    flattened = build(loss="flattened").eval()
    expected = rd.flattened_loss(*flattened.pairs(batch)).mean(1).sum().item()
    assert (
        flattened.training_loss(batch)["loss"].item()
        == expected
        != rd.per_position_loss(*flattened.pairs(batch)).mean(1).sum().item()
    )


@pytest.mark.parametrize("levels", [[1], [2], [3], [2, 3]])
def test_table_7_chooses_maps_of_one_trained_model(build, levels):
    detector = build(sigma=0.0, score_levels=levels).eval()
    maps = rd.distance_maps(*detector.pairs({"image": (batch := images())}))
    expected = sum(
        torch.nn.functional.interpolate(maps[k - 1][:, None], size=64, mode="bilinear", align_corners=True)
        for k in levels
    )
    torch.testing.assert_close(detector(batch).anomaly_map, expected)


def test_sigma_smooths(build):
    detector, batch = build(sigma=0.0).eval(), images()
    raw = detector(batch).anomaly_map
    detector.sigma = 4.0
    torch.testing.assert_close(detector(batch).anomaly_map, gaussian_blur(raw, 4.0))


def test_table_5_bottlenecks(build):
    full, oce, pre = (build(bottleneck=b) for b in ("mff_oce", "oce", "pre"))
    assert full.bottleneck.fusion is not None and oce.bottleneck.fusion is None and pre.bottleneck is None
    assert pre.teacher.strides == [4, 8, 16, 32]  # the frozen fourth stage is the teacher's
    batch = {"image": images()}
    changed = {"image": batch["image"]}
    features = oce.teacher_features(batch)
    features[0] = torch.zeros_like(features[0])
    # Without fusion the embedding sees the deepest level alone; with it, all.
    oce.eval(), full.eval()
    assert torch.equal(oce.bottleneck(features), oce.bottleneck(oce.teacher_features(changed)))
    whole = full.teacher_features(batch)
    assert not torch.equal(full.bottleneck([torch.zeros_like(whole[0]), *whole[1:]]), full.bottleneck(whole))
    assert len(pre.pairs(batch)[0]) == len(pre.pairs(batch)[1]) == 3


@pytest.mark.slow
def test_the_released_bottleneck_concatenates_straight_into_the_embedding(adam):
    """With its 1x1 convolution that nothing calls, WRN-50's bottleneck and decoder take Table 3's 352 MB."""
    wide = partial(Teacher, name="wide_resnet50_2.tv_in1k", pretrained=False)
    detector = RD(backbone=wide, optimizer=adam, image_size=64, bottleneck="concat_oce")
    uncalled = 4096 * 2048 + 2 * 2048
    trained = sum(p.numel() for m in (detector.bottleneck, detector.decoder) for p in m.parameters())
    assert 4 * (trained + uncalled) / 2**20 == pytest.approx(351.70, abs=5e-3)


def test_the_score_of_an_image_does_not_depend_on_its_batch(build):
    detector, batch = build().eval(), images(6)
    together = detector(batch)
    for i in range(6):
        torch.testing.assert_close(
            detector(batch[i : i + 1]).anomaly_map[0], together.anomaly_map[i], rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_normalisation(random_resnet18, adam):
    build = partial(RD, backbone=random_resnet18, optimizer=adam, **SHARED)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    batch = images()
    for value in ("auto", "imagenet"):  # tv_in1k's own statistics are ImageNet's
        torch.testing.assert_close(build(normalisation=value).normalise(batch), (batch - mean) / std)
    assert torch.equal(build(normalisation="none").normalise(batch), batch)
    half = torch.tensor([0.5] * 3).view(1, 3, 1, 1)  # EfficientNet-Lite0's own
    lite0 = partial(random_resnet18.func, name="tf_efficientnet_lite0.in1k", pretrained=False)
    torch.testing.assert_close(build(backbone=lite0).normalise(batch), (batch - half) / half)


def test_the_teacher_sees_normalised_images(build):
    detector, batch = build().eval(), images()
    for found, expected in zip(
        detector.teacher_features({"image": batch}), detector.teacher(detector.normalise(batch)), strict=True
    ):
        assert torch.equal(found, expected)


def test_half_precision_does_not_round_the_scores(build):
    """Under autocast the networks run in bfloat16; distances, maps and scores stay float32."""
    detector, batch = build().eval(), images(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        detection = detector(batch)
        loss = detector.training_loss({"image": batch})["loss"]
    assert detection.anomaly_map.dtype == detection.image_score.dtype == loss.dtype == torch.float32
    assert len(detection.image_score.unique()) == 16 and len(detection.anomaly_map.unique()) > 10_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "l2"}, "model.loss=l2: give one of per_position, flattened"),
        ({"bottleneck": "none"}, "model.bottleneck=none: give one of pre, oce, mff_oce, concat_oce"),
        ({"image_score": "mean"}, "model.image_score=mean"),
        ({"sigma": -1.0}, "model.sigma=-1.0: give a number of pixels, at least 0"),
        ({"score_levels": [0]}, "count the levels from 1 to 3"),
        ({"score_levels": [4]}, "count the levels from 1 to 3"),
        ({"normalisation": "zscore"}, "normalisation=zscore"),
        ({"image_size": 100}, "must be a multiple of 32"),
    ],
)
def test_wrong_values_are_named(build, wrong, message):
    with pytest.raises(UserError, match=message):
        build(**wrong)


def test_an_image_too_small_for_the_pyramid_is_told_the_sizes_that_fit(build):
    """At 8 px every deep level has one pixel, which tells nothing of its stride."""
    with pytest.raises(UserError, match=r"image_size=8: must be a multiple of 32, .*such as 32$"):
        build(image_size=8)


@pytest.mark.parametrize("size", range(34, 130, 7))
def test_a_size_that_does_not_fit_is_told_sizes_that_do(build, size):
    """At 33 px maps of 16, 8 and 4 px that are rounded up looked like those of another stride."""
    with pytest.raises(UserError) as refused:
        build(image_size=size)
    told = [int(word) for word in str(refused.value).partition("such as ")[2].split(" or ")]
    assert told == [size // 32 * 32, size // 32 * 32 + 32]
