"""The demo set is what its description says, and cannot be solved from single pixels."""

import hashlib
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import skimage.data
from PIL import Image
from sklearn.metrics import roc_auc_score

from kdad.data import Demo
from kdad.data import demo as module

pytestmark = pytest.mark.slow  # processes of their own, or many seconds

# Every image and mask, in order. A change of it makes figures on the demo incomparable with earlier
# ones: rename the folder in conf/dataset/demo.yaml when it is meant.
FINGERPRINTS = {"brick": "882529d6556739f4", "grass": "b679b7098f76925c", "gravel": "e4d7f49553d002bb"}


@pytest.fixture(scope="module", params=module.CATEGORIES)
def category(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def images(category) -> dict[str, np.ndarray]:
    return dict(module.make_demo_images(category))


@pytest.fixture(scope="module")
def planted(category) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(before, after, mask) of a few defects of each kind."""
    rng, photo = np.random.default_rng(0), module.load_photograph(category)
    crops = [module.crop(photo, module.TEST_COLUMNS, rng) for _ in range(6)]
    return [(crop, *module.plant(kind, crop, category, rng)) for kind in module.DEFECTS for crop in crops]


def test_same_pixels_each_time(category, images):
    digest = hashlib.sha256()
    for name, pixels in images.items():
        digest.update(name.encode() + pixels.tobytes())
    assert digest.hexdigest()[:16] == FINGERPRINTS[category]


def test_training_and_test_crops_share_no_pixel_of_the_photograph(monkeypatch):
    marked = np.zeros((512, 512), np.uint8)
    marked[:, :308] = 255
    monkeypatch.setattr(skimage.data, "brick", lambda: marked)
    photo, rng = module.load_photograph.__wrapped__("brick"), np.random.default_rng(0)
    assert min(module.crop(photo, module.TRAIN_COLUMNS, rng).min() for _ in range(200)) == 255
    assert max(module.crop(photo, module.TEST_COLUMNS, rng).max() for _ in range(200)) == 0


def test_mask_is_exactly_what_changed(planted):
    for before, after, mask in planted:
        assert np.array_equal(before != after, mask)


def test_masks_cover_half_a_percent_to_five(images):
    coverage = [mask.mean() / 255 for name, mask in images.items() if name.startswith("ground_truth")]
    assert len(coverage) == 60 and min(coverage) >= 0.005 and max(coverage) <= 0.05


def test_change_is_bounded_and_brings_no_new_value(category, planted):
    low, high = module.measure_value_range(module.load_photograph(category))
    for before, after, _ in planted:
        assert np.abs(after.astype(int) - before).max() <= module.CONTRAST
        assert (after >= np.minimum(before, np.floor(low))).all() and (after <= np.maximum(before, np.ceil(high))).all()


def test_single_pixels_do_not_tell(images):
    """Mean and variance per pixel over the training images, the largest deviation as the score."""
    train = np.stack([pixels for name, pixels in images.items() if name.startswith("train")]).astype(float)
    mean, std = train.mean(0), train.std(0)
    tests = {name: pixels for name, pixels in images.items() if name.startswith("test")}
    scores = [(np.abs(pixels - mean) / std).max() for pixels in tests.values()]
    labels = ["good" not in name for name in tests]
    assert 0.2 < roc_auc_score(labels, scores) < 0.8


def build(root) -> None:
    module.write_demo(root)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Written by two processes at once."""
    root = tmp_path_factory.mktemp("cache") / "deep" / "demo"
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(build, [root, root]))
    return root


def test_written_whole_by_two_processes_at_once(written, options):
    assert [path.name for path in written.parent.iterdir()] == ["demo"]
    data = Demo(**options(written, image_size=32))
    data.setup()
    assert data.category == "brick" and data.categories() == ["brick", "grass", "gravel"] and data.has_masks
    assert (data.facts["n_train"], data.facts["n_test"], data.facts["n_vanished_masks"]) == (200, 100, 0)
    assert {sample.kind for sample in data.test_samples} == {"good", *module.DEFECTS}


def test_files_hold_the_pixels_and_are_not_written_twice(written, images, category, options, monkeypatch):
    for name in ("train/good/000.png", "test/hole/003.png", "ground_truth/hole/003_mask.png"):
        assert np.array_equal(np.asarray(Image.open(written / category / name)), images[name])
    monkeypatch.setattr(module, "make_demo_images", None)
    Demo(**options(written)).check()


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def broken(category):
        yield "train/good/000.png", np.zeros((4, 4), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "make_demo_images", broken)
    with pytest.raises(KeyboardInterrupt):
        module.write_demo(tmp_path / "demo")
    assert not list(tmp_path.iterdir())
