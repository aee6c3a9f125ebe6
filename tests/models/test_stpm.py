"""What STPM means: an identical student, trained alone, whose product map points at the place."""

from functools import partial

import pytest
import torch

from kdad.errors import UserError
from kdad.models import stpm
from kdad.models.stpm import STPM
from tests.conftest import share


@pytest.fixture(scope="module")
def build(tiny_resnet, adam):
    return share(partial(STPM, backbone=tiny_resnet, optimizer=adam, image_size=64))


@pytest.fixture(scope="module")
def build_resnet18(random_resnet18, adam):
    return share(partial(STPM, backbone=random_resnet18, optimizer=adam, image_size=64))


def images(n=4):
    return torch.rand(n, 3, 64, 64)


def test_the_student_is_identical_but_for_its_weights(build_resnet18):
    detector = build_resnet18()
    shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in (detector.teacher, detector.student)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(detector.teacher.body.conv1.weight, detector.student.body.conv1.weight)
    trained = {id(p) for group in detector.configure_optimizers().param_groups for p in group["params"]}
    assert trained == {id(p) for p in detector.student.parameters()}


def test_a_student_with_the_teachers_weights_gives_a_zero_map(build):
    detector = build().eval()
    detector.student.load_state_dict(detector.teacher.state_dict())
    detection = detector(images())
    assert detection.anomaly_map.abs().max() < 1e-6 and detection.image_score.abs().max() < 1e-6


def test_a_planted_square_is_where_the_map_peaks(build, monkeypatch):
    detector = build().eval()
    teacher = detector.teacher_features({"image": images()})
    student = [f.clone() + 0.01 * torch.randn_like(f) for f in teacher]
    for f, stride in zip(student, (4, 8, 16), strict=True):
        f[1, :, 32 // stride : 48 // stride, 0 : 16 // stride] *= -1
    monkeypatch.setattr(detector, "pairs", lambda batch: (teacher, student))
    detection = detector(images())
    row, column = divmod(detection.anomaly_map[1, 0].argmax().item(), 64)
    assert 32 <= row < 48 and 0 <= column < 16
    assert detection.image_score.argmax() == 1
    assert torch.equal(detection.image_score, detection.anomaly_map.amax(dim=(1, 2, 3)))


def test_loss_is_the_equations_on_the_networks_features(build):
    detector, batch = build().eval(), {"image": images()}
    losses = detector.training_loss(batch)
    assert losses["loss"].item() == pytest.approx(stpm.total_loss(*detector.pairs(batch)).mean().item(), rel=1e-6)


@pytest.mark.slow
def test_the_loss_without_the_half_is_twice_the_rate_and_half_the_decay(random_resnet18):
    """The released code's loss; its maps and what it learns are the printed loss's, by SGD of lr 0.8 and decay 5e-5."""
    batches, weights, maps = [images() for _ in range(3)], [], []
    for loss, lr, decay in (("squared", 0.4, 1e-4), ("half_squared", 0.8, 5e-5)):
        torch.manual_seed(0)
        sgd = partial(torch.optim.SGD, lr=lr, momentum=0.9, weight_decay=decay)
        detector = STPM(backbone=random_resnet18, optimizer=sgd, image_size=64, loss=loss)
        optimizer = detector.configure_optimizers()
        for batch in batches:
            optimizer.zero_grad()
            detector.training_loss({"image": batch})["loss"].backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in detector.student.parameters()]))
        maps.append(detector.eval()(batches[0]).anomaly_map)
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-6)


def test_the_student_starts_as_torchvisions_resnets(build_resnet18):
    """Unless asked to start as timm's, with zeros in the last norm of each of its six residual branches."""
    started = [build_resnet18(zero_init_last=zero).student for zero in (False, True)]
    values = [[p for n, p in s.named_parameters() if n.endswith("bn2.weight")] for s in started]
    assert [len(v) for v in values] == [6, 6]
    assert all(bool((p == 1).all()) for p in values[0]) and not any(bool(p.any()) for p in values[1])


def test_a_student_without_such_norms_says_that_none_starts_at_zero(lite0, adam, caplog):
    STPM(backbone=lite0, optimizer=adam, image_size=64, zero_init_last=True)
    assert "model.zero_init_last=true changes nothing: tf_efficientnet_lite0.in1k" in caplog.text


@pytest.mark.slow
def test_levels_of_table_3(random_resnet18, adam):
    """Block k of the paper is layer{k-1}, timm's level k-1."""
    for blocks, paths in {
        (2,): ["layer1"],
        (2, 3): ["layer1", "layer2"],
        (2, 3, 4, 5): [f"layer{i}" for i in range(1, 5)],
    }.items():
        detector = STPM(backbone=random_resnet18, optimizer=adam, image_size=64, levels=[b - 1 for b in blocks])
        assert detector.teacher.paths == detector.student.paths == paths
        assert detector.eval()(images()).anomaly_map.shape == (4, 1, 64, 64)


def test_a_subset_of_levels_in_the_score(build):
    detector, batch = build(score_levels=[1, 3]).eval(), images()
    maps = stpm.distance_maps(*detector.pairs({"image": batch}))
    torch.testing.assert_close(detector(batch).anomaly_map[:, 0], stpm.anomaly_map([maps[0], maps[2]], 64))


@pytest.mark.parametrize(
    ("wrong", "message"), [({"map_size": 0}, "model.map_size=0"), ({"score_levels": []}, "count the levels")]
)
def test_wrong_values_are_named(build, wrong, message):
    with pytest.raises(UserError, match=message):
        build(**wrong)


def test_half_precision_does_not_round_the_scores(build):
    detector, batch = build().eval(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert detector(batch).anomaly_map.dtype == torch.float32
