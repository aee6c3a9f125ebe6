"""What every detector keeps to: runs over conf/model/*.yaml, so that a new one is tested as soon as its YAML exists."""

import hydra
import pytest
import torch

from kdad.configuration import CONF, choices
from kdad.models.base import Detection, KDDetector
from kdad.jobs import instantiate_detector

MODELS = choices("model")


@pytest.fixture(params=MODELS)
def detector(request) -> KDDetector:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(
            "run", [f"model={request.param}", "backbone=resnet18", "backbone.pretrained=false", "image_size=64"]
        )
    return instantiate_detector(cfg)


def batch(n=4):
    return {"image": torch.rand(n, 3, 64, 64), "label": torch.zeros(n, dtype=torch.long), "index": torch.arange(n)}


def test_forward_gives_a_map_at_image_size_and_a_score(detector):
    detection = detector.eval()(batch()["image"])
    assert isinstance(detection, Detection)
    assert detection.anomaly_map.shape == (4, 1, 64, 64) and detection.image_score.shape == (4,)
    assert torch.isfinite(detection.anomaly_map).all() and torch.isfinite(detection.image_score).all()


def test_test_and_predict_are_forward(detector):
    detector.eval()
    data = batch()
    expected = detector(data["image"])
    for step in (detector.test_step, detector.predict_step):
        found = step(data, 0)
        assert torch.equal(found.anomaly_map, expected.anomaly_map) and torch.equal(found.image_score, expected.image_score)


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
    detector(batch()["image"])
