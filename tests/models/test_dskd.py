"""What DSKD means: two students that learn apart, a score with a decision, and the switches of Tables 7 to 9."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdad.errors import UserError
from kdad.functional import gaussian_blur
from kdad.models import dskd
from kdad.models.dskd import DSKD, STRUCTURES
from kdad.networks.bottleneck import DeepFeatureEmbedding, DirectDownsampling
from kdad.teacher import Teacher
from tests.conftest import share
from tests.tolerances import CLOSE

COMPARED = {"ds": "td", "t_e": "te", "t_d": "td", "e_d": "ed"}


@pytest.fixture(scope="module")
def build(tiny_resnet, adam):
    return share(partial(DSKD, backbone=tiny_resnet, optimizer=adam, image_size=64))


@pytest.fixture(scope="module")
def build_resnet18(random_resnet18, adam):
    return share(partial(DSKD, backbone=random_resnet18, optimizer=adam, image_size=64))


def images(n=4, size=64):
    return torch.rand(n, 3, size, size)


def moved(network):
    """Whether any parameter has a gradient other than zero."""
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def trained(detector):
    return {id(p) for group in detector.configure_optimizers().param_groups for p in group["params"]}


def parameters(*networks):
    return {id(p) for network in networks if network is not None for p in network.parameters()}


# What is compared


@pytest.mark.parametrize("structure", STRUCTURES)
def test_equal_networks_give_a_zero_map(build, monkeypatch, structure):
    detector = build(structure=structure).eval()
    features = detector.teacher_features({"image": images()})
    monkeypatch.setattr(detector, "pyramids", lambda batch: {key: [f.clone() for f in features] for key in "ted"})
    detection = detector(images())
    assert detection.anomaly_map.abs().max() < 1e-5 and detection.image_score.abs().max() < 1e-5
    assert detector.training_loss({"image": images()})["loss"].abs() < 1e-5


def test_an_encoder_with_the_teachers_weights_gives_a_zero_map(build):
    detector = build(structure="t_e").eval()
    detector.encoder.load_state_dict(detector.teacher.state_dict())
    assert detector(images()).anomaly_map.abs().max() < 1e-5


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_planted_square_is_where_the_map_peaks(build, monkeypatch, structure):
    """The network that is scored agrees but for a square, rows 40-56 and columns 8-24 of the image."""
    detector = build(structure=structure).eval()
    teacher = detector.teacher_features({"image": images()})
    known, student = COMPARED[structure]
    other = [f.clone() for f in teacher]
    for f, stride in zip(other, (4, 8, 16), strict=True):
        f[1, :, 40 // stride : 56 // stride, 8 // stride : 24 // stride] *= -1
    found = dict.fromkeys("ted", teacher) | {student: other}
    monkeypatch.setattr(detector, "pyramids", lambda batch: found)
    detection = detector(images())
    row, column = divmod(detection.anomaly_map[1, 0].argmax().item(), 64)
    assert 40 <= row < 56 and 8 <= column < 24
    assert detection.image_score.argmax() == 1
    assert torch.equal(detection.image_score, detection.anomaly_map.amax(dim=(1, 2, 3)))


def test_the_score_is_the_equations_on_teacher_and_decoder(build):
    detector, batch = build().eval(), images()
    found = detector.pyramids({"image": batch})
    maps = [1.1 * (1 - torch.cosine_similarity(t, d)) for t, d in zip(found["t"], found["d"], strict=True)]
    fused = sum(F.interpolate(m[:, None], size=64, mode="bilinear", align_corners=True) for m in maps)
    torch.testing.assert_close(detector(batch).anomaly_map, gaussian_blur(fused, 4.0), **CLOSE[torch.float32])


def test_the_score_of_an_image_does_not_depend_on_its_batch(build):
    detector, batch = build().eval(), images(6)
    together = detector(batch)
    for i in range(6):
        alone = detector(batch[i : i + 1]).anomaly_map[0]
        torch.testing.assert_close(alone, together.anomaly_map[i], rtol=1e-4, atol=1e-5)


def test_half_precision_does_not_round_the_scores(build):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build().eval()(images()).anomaly_map.dtype == torch.float32


# Who learns from whom


def test_students_and_nothing_else_are_trained(build):
    detector = build()
    assert trained(detector) == parameters(detector.encoder, detector.bottleneck, detector.decoder)
    detector.training_loss({"image": images()})["loss"].backward()
    assert all(p.grad is None for p in detector.teacher.parameters())
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)


@pytest.mark.slow
def test_the_encoder_student_is_the_teachers_network_with_other_weights(build_resnet18):
    detector = build_resnet18()
    shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in (detector.teacher, detector.encoder)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(detector.teacher.body.conv1.weight, detector.encoder.body.conv1.weight)


def test_each_loss_trains_its_own_student(build):
    detector, batch = build(), {"image": images()}
    detector.training_loss(batch)["loss_d"].backward()
    assert not moved(detector.encoder) and moved(detector.bottleneck) and moved(detector.decoder)
    detector.zero_grad(set_to_none=True)
    detector.training_loss(batch)["loss_e"].backward()
    assert moved(detector.encoder) and not moved(detector.bottleneck) and not moved(detector.decoder)


def test_detach_embedding_false_lets_the_decoders_loss_train_the_encoder(build):
    detector = build(detach_embedding=False)
    detector.training_loss({"image": images()})["loss_d"].backward()
    assert moved(detector.encoder) and moved(detector.bottleneck) and moved(detector.decoder)


def test_detaching_changes_gradients_and_no_value(build):
    batch, detector = {"image": images()}, build().eval()
    through = build(detach_embedding=False).eval()
    through.load_state_dict(detector.state_dict())
    expected = detector.training_loss(batch)
    assert all(torch.equal(value, expected[key]) for key, value in through.training_loss(batch).items())


def test_loss_is_the_sum_of_the_equations_on_the_networks_features(build):
    detector, batch = build().eval(), {"image": images()}
    found, losses = detector.pyramids(batch), detector.training_loss(batch)
    for key, student in (("loss_e", "e"), ("loss_d", "d")):
        expected = dskd.student_loss(dskd.distance_maps(found["t"], found[student], 0.1)).mean()
        assert losses[key].item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses["loss"].item() == pytest.approx(losses["loss_e"].item() + losses["loss_d"].item(), rel=1e-6)


def test_the_embedding_takes_unit_vectors_of_the_encoder(build, monkeypatch):
    """Algorithm 2, line 7."""
    detector, seen = build().eval(), []
    detector.bottleneck.register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    found = detector.pyramids({"image": images()})
    for embedded, own in zip(seen, found["e"], strict=True):
        torch.testing.assert_close(embedded, own / own.norm(dim=1, keepdim=True).clamp(min=1e-12))


# Table 7


def test_teacher_encoder_has_one_student(build):
    detector = build(structure="t_e")
    assert detector.decoder is None and detector.bottleneck is None
    assert trained(detector) == parameters(detector.encoder)
    losses = detector.training_loss({"image": images()})
    assert set(losses) == {"loss", "loss_e"} and losses["loss"] == losses["loss_e"]


def test_teacher_decoder_embeds_the_teacher(build):
    detector, seen = build(structure="t_d"), []
    assert detector.encoder is None and trained(detector) == parameters(detector.bottleneck, detector.decoder)
    batch = {"image": images()}
    losses = detector.training_loss(batch)
    assert set(losses) == {"loss", "loss_d"} and losses["loss"] == losses["loss_d"]
    detector.bottleneck.register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    detector.pyramids(batch)
    assert all(map(torch.equal, seen, dskd.unit_vectors(detector.teacher_features(batch))))


def test_encoder_decoder_restores_the_encoder(build):
    """l_d compares with the encoder student, as the score does; its gradient does not reach what it learns from."""
    detector, batch = build(structure="e_d").eval(), {"image": images()}
    found, losses = detector.pyramids(batch), detector.training_loss(batch)
    expected = dskd.student_loss(dskd.distance_maps(found["e"], found["d"], 0.1)).mean()
    assert losses["loss_d"].item() == pytest.approx(expected.item(), rel=1e-6)
    losses["loss_d"].backward()
    assert not moved(detector.encoder) and moved(detector.bottleneck) and moved(detector.decoder)
    detector.training_loss(batch)["loss_e"].backward()
    assert moved(detector.encoder)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_score_what_they_compare_and_use_every_parameter(build, structure):
    detector, batch = build(structure=structure, sigma=0.0).eval(), images()
    found = detector.pyramids({"image": batch})
    target, student = (found[key] for key in COMPARED[structure])
    maps = [1.1 * (1 - torch.cosine_similarity(a, b)) for a, b in zip(target, student, strict=True)]
    fused = sum(F.interpolate(m[:, None], size=64, mode="bilinear", align_corners=True) for m in maps)
    torch.testing.assert_close(detector(batch).anomaly_map, fused, rtol=1e-4, atol=1e-5)
    detector.training_loss({"image": batch})["loss"].backward()
    assert not [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]


# The embedding, Table 8


def test_the_embedding_is_figure_4(build_resnet18):
    """Level 1 is halved twice and level 2 once by 3x3 stride-2 convolutions; then a stage whose first block has a 1x1 shortcut."""
    bottleneck = build_resnet18().bottleneck
    assert isinstance(bottleneck, DeepFeatureEmbedding)
    chains = [
        [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in chain.modules() if isinstance(m, nn.Conv2d)]
        for chain in bottleneck[0].chains
    ]
    assert chains == [[(64, 128, (3, 3), (2, 2)), (128, 256, (3, 3), (2, 2))], [(128, 256, (3, 3), (2, 2))], []]
    first, second = bottleneck[1]  # a ResNet-18's stage
    assert list(second.shortcut.parameters()) == []
    shortcut = first.shortcut[0]
    assert (shortcut.in_channels, shortcut.out_channels, shortcut.kernel_size) == (3 * 256, 512, (1, 1))
    features = [torch.rand(2, c, 64 // s, 64 // s) for c, s in ((64, 4), (128, 8), (256, 16))]
    assert bottleneck(features).shape == (2, 512, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "millions", "mebibytes"), [(1, 34.57, 87.3), (2, 39.288, 105.28), (3, 44.01, 123.3)]
)
def test_table_6_counts_the_parameters_of_two_blocks(build_resnet18, blocks, millions, mebibytes):
    """It prints 39.3 M and 105 MB, which is what is trained.

    Counted are two whole ResNet-18 (11 689 512 each), decoder, embedding, and, as in RD's released code, a 1x1 of 1024
    to 512 that nothing calls. What is trained is all but the teacher.
    """
    detector = build_resnet18(dfe_blocks=blocks) if blocks != 2 else build_resnet18()
    whole = 11_689_512
    own = sum(p.numel() for network in (detector.bottleneck, detector.decoder) for p in network.parameters())
    trained = whole + own + 1024 * 512 + 2 * 512
    assert (whole + trained) / 1e6 == pytest.approx(millions, abs=5e-3)
    assert 4 * trained / 2**20 == pytest.approx(mebibytes, abs=5e-2)


@pytest.mark.slow
def test_table_6_counts_the_operations_of_two_blocks(build_resnet18):
    """It prints 6.17 G: the multiplications of the networks' convolutions at 256 px, and 0.3 % for the norms.

    A block has 0.302 G, so that one or three would be far off.
    """
    detector = build_resnet18(image_size=256).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector.pyramids({"image": images(1, 256)})
    # A multiplication with its addition counts as two there.
    assert counter.get_total_flops() / 2e9 == pytest.approx(6.17, abs=0.02)


@pytest.mark.slow
def test_the_encoder_starts_as_torchvisions_resnets(build_resnet18):
    """Unless asked to start as timm's, with zeros in the last norm of each of its six residual branches."""
    timms, torchvisions = build_resnet18(zero_init_last=True).encoder, build_resnet18().encoder
    zeros = [n for n, p in timms.named_parameters() if n.endswith("bn2.weight") and not p.any()]
    assert len(zeros) == 6
    ones = [p for n, p in torchvisions.named_parameters() if n.endswith("bn2.weight")]
    assert len(ones) == 6 and all(bool((p == 1).all()) for p in ones)


def test_corners_are_aligned_on_request(build):
    detector = build(align_corners=True).eval()
    batch = images()
    target, student = detector.pairs({"image": batch})
    maps = dskd.distance_maps(target, student, 0.1)
    raised = sum(F.interpolate(m[:, None], size=64, mode="bilinear", align_corners=True) for m in maps)[:, 0]
    torch.testing.assert_close(detector(batch).anomaly_map[:, 0], gaussian_blur(raised, 4.0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_without_dfe_the_decoder_sees_the_deepest_level_alone(build_resnet18):
    detector = build_resnet18(dfe=False).eval()
    assert isinstance(detector.bottleneck, DirectDownsampling)
    convolutions = [m for m in detector.bottleneck.modules() if isinstance(m, nn.Conv2d)]
    (only,) = convolutions
    assert (only.in_channels, only.out_channels, only.kernel_size, only.stride) == (256, 512, (3, 3), (2, 2))
    features = dskd.unit_vectors(detector.teacher_features({"image": images()}))
    blank = [torch.zeros_like(features[0]), torch.zeros_like(features[1]), features[2]]
    assert torch.equal(detector.bottleneck(features), detector.bottleneck(blank))
    full = build_resnet18().eval().bottleneck
    assert not torch.equal(full(features), full(blank))
    assert detector(images()).anomaly_map.shape == (4, 1, 64, 64)


# Table 9 and the map


@pytest.mark.slow
@pytest.mark.parametrize("levels", [[1], [2], [3], [1, 2, 3]])
def test_table_9_chooses_maps_of_one_trained_model(build, levels):
    whole, batch = build(sigma=0.0).eval(), images()
    detector = build(sigma=0.0, score_levels=levels).eval()
    detector.load_state_dict(whole.state_dict())
    found = whole.pyramids({"image": batch})
    maps = dskd.distance_maps(found["t"], found["d"], 0.1)
    torch.testing.assert_close(
        detector(batch).anomaly_map[:, 0], dskd.fused_map([maps[k - 1] for k in levels], 64, True)
    )
    assert detector.training_loss({"image": batch})["loss"] == whole.training_loss({"image": batch})["loss"]


def test_sigma_smooths_and_lambda_scales(build):
    detector, batch = build(sigma=0.0).eval(), images()
    raw = detector(batch).anomaly_map
    for values, expected in (({}, gaussian_blur(raw, 4.0)), ({"sigma": 0.0, "euclidean_weight": 1.1}, raw * 2.1 / 1.1)):
        other = build(**values).eval()
        other.load_state_dict(detector.state_dict())
        torch.testing.assert_close(other(batch).anomaly_map, expected, **CLOSE[torch.float32])


@pytest.mark.slow
def test_any_backbone_with_a_pyramid(adam):
    """A bottleneck network's blocks; and one whose features can be negative."""
    for name in ("resnet50.tv_in1k", "tf_efficientnet_lite0.in1k"):
        backbone = partial(Teacher, name=name, pretrained=False)
        detector = DSKD(backbone=backbone, optimizer=adam, image_size=64)
        assert torch.isfinite(detector.training_loss({"image": images()})["loss"])


def test_a_checkpoint_of_0_1_loads_without_its_own_statistics(build):
    detector = build()
    checkpoint = {"state_dict": dict(detector.state_dict())}
    detector.on_save_checkpoint(checkpoint)
    checkpoint["state_dict"] |= {
        "score_mean": torch.ones(()),
        "score_std": torch.ones(()),
        "fitted_setting": torch.ones(7),
    }
    (other := build()).on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"structure": "t-e"}, "model.structure=t-e: give one of ds, t_e, t_d, e_d"),
        ({"dfe": "off"}, "model.dfe=off: give true or false"),
        ({"detach_embedding": 0}, "model.detach_embedding=0: give true or false"),
        ({"dfe_blocks": 0}, "model.dfe_blocks=0"),
        ({"euclidean_weight": -0.1}, "model.euclidean_weight=-0.1"),
        ({"euclidean_weight": "a"}, "model.euclidean_weight=a"),
        ({"sigma": -1}, "model.sigma=-1"),
        ({"sigma": math.nan}, "model.sigma=nan"),
        ({"score_levels": [0]}, "count the levels from 1 to 3"),
        ({"score_levels": [4]}, "count the levels from 1 to 3"),
        ({"score_levels": []}, "count the levels from 1 to 3"),
        ({"image_size": 80}, "must be a multiple of 32"),
        ({"structure": "t_e", "dfe": False}, "model.dfe changes nothing where structure=t_e"),
        ({"structure": "t_e", "dfe_blocks": 1}, "model.dfe_blocks changes nothing where structure=t_e"),
        ({"dfe": False, "dfe_blocks": 1}, "model.dfe_blocks changes nothing where structure=ds and dfe=False"),
        ({"structure": "t_e", "detach_embedding": False}, "model.detach_embedding changes nothing"),
        ({"structure": "t_d", "detach_embedding": False}, "model.detach_embedding changes nothing"),
        ({"structure": "t_d", "zero_init_last": True}, "model.zero_init_last changes nothing"),
        ({"align_corners": "yes"}, "model.align_corners=yes: give true or false"),
    ],
)
def test_wrong_values_are_named(build, wrong, message):
    with pytest.raises(UserError, match=message):
        build(**wrong)
