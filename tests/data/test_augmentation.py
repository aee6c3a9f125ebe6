import numpy as np
import pytest
import torch
from skimage.transform import AffineTransform, warp

from kdad.data import MVTec
from kdad.data.augmentation import RotateScale, rotate_scale
from kdad.data.loading import Pool, Split, TrainOrder
from kdad.errors import UserError


@pytest.fixture
def split():
    pool = Pool(torch.randint(0, 256, (12, 9, 9, 3), dtype=torch.uint8))
    return Split(pool, torch.arange(12), torch.zeros(12, dtype=torch.long))


@pytest.mark.parametrize(("degrees", "scale"), [(0.0, 1.0), (20.0, 0.9), (-13.0, 1.05), (90.0, 1.0)])
def test_the_image_is_turned_clockwise_and_scaled_about_its_centre(degrees, scale):
    """Against scikit-image's warp, which takes a place in the result to one in the image."""
    y, x = np.mgrid[:32, :32]
    image = np.stack([np.sin(x / 5) + y / 40, np.cos(y / 7), x * y / 1000]).astype(np.float32) + 2
    centre = AffineTransform(translation=(-15.5, -15.5))
    back = centre + AffineTransform(rotation=-np.deg2rad(degrees), scale=1 / scale) + centre.inverse
    expected = warp(image.transpose(1, 2, 0), back, order=1, mode="constant", cval=0, preserve_range=True)
    found = rotate_scale(torch.from_numpy(image), degrees, scale).permute(1, 2, 0).numpy()
    inside = np.hypot(x - 15.5, y - 15.5) < 13  # the two treat the border differently
    np.testing.assert_allclose(found[inside], expected[inside], atol=2e-3)
    assert (scale, degrees % 90) != (0.9, 20.0) or (found[0, 0] == 0).all()  # black where nothing is known


def test_draws_are_of_seed_epoch_and_image_alone(split):
    def images(seed, epoch, indices):
        order = TrainOrder(12, seed)
        order.set_epoch(epoch)
        torch.manual_seed(len(indices))
        return RotateScale(split, order).__getitems__(indices)["image"]

    whole = images(0, 3, list(range(12)))
    assert torch.equal(images(0, 3, [7, 2]), whole[[7, 2]])
    assert not torch.equal(images(0, 4, [7]), whole[[7]]) and not torch.equal(images(1, 3, [7]), whole[[7]])
    plain = split.__getitems__(list(range(12)))["image"]
    assert all(not torch.equal(a, b) for a, b in zip(whole, plain, strict=True))
    assert whole.is_contiguous(memory_format=torch.channels_last) and whole.dtype == torch.float32


def test_draws_fill_their_ranges(split, monkeypatch):
    drawn = []
    monkeypatch.setattr("kdad.data.augmentation.rotate_scale", lambda image, *draw: drawn.append(draw) or image)
    order = TrainOrder(12, 0)
    for epoch in range(100):
        order.set_epoch(epoch)
        RotateScale(split, order).__getitems__(list(range(12)))
    degrees, scales = np.array(drawn).T
    assert -20 <= degrees.min() < -19 and 19 < degrees.max() <= 20 and abs(degrees.mean()) < 2
    assert 0.9 <= scales.min() < 0.902 and 1.048 < scales.max() <= 1.05
    assert abs(np.corrcoef(degrees, scales)[0, 1]) < 0.1


def test_training_images_alone_change_and_are_not_cached(mvtec_root, options):
    batches = {}
    for augment in ("none", "rotate_scale"):
        data = MVTec(**options(mvtec_root, category="tile", val_fraction=0.3, augment=augment))
        data.setup()
        loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
        batches[augment] = {part: [batch["image"] for batch in loader] for part, loader in loaders.items()}
        assert [pool.cacheable for pool in data.pools] == [augment == "none", True]
    for part in ("train", "val", "test"):
        pairs = zip(batches["none"][part], batches["rotate_scale"][part], strict=True)
        assert all(torch.equal(a, b) == (part != "train") for a, b in pairs)


def test_unknown_augmentation(mvtec_root, options):
    with pytest.raises(UserError, match="dataset.augment is flip: give one of none, rotate_scale"):
        MVTec(**options(mvtec_root, augment="flip"))
