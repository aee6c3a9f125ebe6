"""What every detector keeps to: runs over conf/model/*.yaml, so that a new one is tested as soon as its YAML exists."""

import copy

import pytest
import pytorch_lightning as pl
import torch

from kdad.engine.build import build_detector
from kdad.models.base import Detection, KDDetector
from kdad.settings.compose import compose, list_choices
from tests.conftest import share

MODELS = list_choices("model")


@share
def build(model) -> KDDetector:
    return build_detector(
        compose(
            f"model={model}",
            "backbone=resnet18",
            "backbone.name=test_resnet.r160_in1k",
            "backbone.pretrained=false",
            "image_size=64",
        )
    )


@pytest.fixture(params=MODELS)
def detector(request) -> KDDetector:
    return build(model=request.param)


def batch(n=4):
    return {"image": torch.rand(n, 3, 64, 64), "label": torch.zeros(n, dtype=torch.long), "index": torch.arange(n)}


def test_forward_gives_a_map_at_image_size_and_a_score(detector):
    detection = detector.eval()(batch()["image"])
    assert isinstance(detection, Detection)
    assert detection.anomaly_map.shape == (4, 1, 64, 64) and detection.image_score.shape == (4,)
    assert torch.isfinite(detection.anomaly_map).all() and torch.isfinite(detection.image_score).all()


def test_a_detector_is_a_lightning_module(detector):
    """Here, where Lightning is loaded, and so is a copy of it."""
    for made in (detector, copy.deepcopy(detector)):
        assert isinstance(made, pl.LightningModule) and type(made) is type(detector)
        assert made.device == torch.device("cpu")


def test_test_and_predict_are_detect_and_so_is_forward(detector):
    detector.eval()
    data = batch()
    expected = detector.detect(data)
    for step in (detector.test_step, detector.predict_step, lambda data, _: detector(data["image"])):
        found = step(data, 0)
        assert torch.equal(found.anomaly_map, expected.anomaly_map) and torch.equal(
            found.image_score, expected.image_score
        )


def test_one_step_lowers_the_loss_and_touches_the_student_only(detector):
    data, before = batch(), {k: v.clone() for k, v in detector.teacher.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-3)
    losses = detector.train().training_loss(data)
    assert all(value.ndim == 0 for value in losses.values())
    losses["loss"].backward()
    optimizer.step()
    assert detector.training_loss(data)["loss"] < losses["loss"]
    assert all(torch.equal(before[k], v) for k, v in detector.teacher.state_dict().items())
    assert all(p.grad is None for p in detector.teacher.parameters())


def test_doubling_the_batch_with_copies_leaves_the_loss(detector):
    detector.eval()  # batch norm would otherwise see the batch
    data = batch()
    doubled = {key: torch.cat([value, value]) for key, value in data.items()}
    torch.testing.assert_close(detector.training_loss(data)["loss"], detector.training_loss(doubled)["loss"])


def test_features_come_through_one_door(detector, monkeypatch):
    """With the door shut, nothing else reaches the teacher."""
    features = detector.eval().teacher_features(batch())
    monkeypatch.setattr(detector, "teacher_features", lambda batch: features)
    monkeypatch.setattr(detector.teacher, "forward", None)
    detector.training_loss(batch())
    detector.detect(batch())


def test_features_that_come_with_a_batch_are_the_ones_that_are_used(detector, monkeypatch):
    """Cached features are those of the images as they are; of changed images the teacher is asked anew."""
    data = batch()
    expected = detector.eval().detect(data)
    with_features = {**data, "features": detector.teacher_features(data)}
    passes = []
    forward = detector.teacher.forward
    monkeypatch.setattr(detector.teacher, "forward", lambda images: passes.append(len(images)) or forward(images))
    found = detector.detect(with_features)
    assert torch.equal(found.anomaly_map, expected.anomaly_map) and torch.equal(found.image_score, expected.image_score)
    detector.training_loss(with_features)
    assert passes == []

    noisy = data["image"] + 0.1 * torch.rand_like(data["image"])
    changed = detector.teacher_features({"image": noisy})
    assert passes == [4] and not torch.equal(changed[0], with_features["features"][0])
    assert torch.equal(detector.teacher_features(with_features)[0], with_features["features"][0])


def test_nothing_is_remembered_between_calls(detector):
    """The same tensor of images, with and without features that are not its own."""
    data = batch()
    plain = detector.eval().detect(data).image_score
    other = detector.teacher_features(batch())
    assert not torch.equal(detector.detect({**data, "features": other}).image_score, plain)
    assert torch.equal(detector.detect(data).image_score, plain) and torch.equal(
        detector(data["image"]).image_score, plain
    )
