"""A test counted by other protocols: masks and maps by each rule, epochs, memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torchvision.transforms.v2.functional import center_crop

from kdad.data.masks import resize_mask as resize_ours
from kdad.engine.protocols import ProtocolTest, choose_epoch, crop, measure, refuse, resize_map, resize_mask
from kdad.metrics.approximate import approximate_pro
from kdad.metrics.pro import pro
from kdad.settings.protocols import Protocol

OURS = Protocol("ours")


@pytest.fixture
def seen():
    """Maps, masks, scores and labels of six images; of the last, anomalous, no pixel is left in the mask."""
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 20, 20), dtype=bool)
    masks[2, 3:9, 3:9] = masks[3, 12:18, 2:7] = masks[4, 0:3, 0:3] = True
    maps = rng.random((6, 20, 20)) + 0.4 * masks
    return maps, masks, rng.random(6), np.array([0, 0, 1, 1, 1, 1])


def test_without_fields_the_numbers_are_the_exact_ones(seen):
    maps, masks, scores, labels = seen
    found = measure(OURS, *seen)
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert found["pro"] == pro(maps, masks) and len(found) == 7


def test_image_scores_and_labels(seen):
    maps, masks, _, labels = seen
    highest = np.sort(maps.reshape(6, -1), axis=1)
    by_max = measure(OURS._replace(image_score="max"), *seen)
    assert by_max["image_auroc"] == pytest.approx(roc_auc_score(labels, highest[:, -1]), abs=1e-12)
    top = measure(OURS._replace(image_score="top_1_percent"), *seen)  # 4 of 400 pixels
    assert top["image_auroc"] == pytest.approx(roc_auc_score(labels, highest[:, -4:].mean(axis=1)), abs=1e-12)
    by_mask = measure(OURS._replace(labels="mask", image_score="max"), *seen)
    assert by_mask["image_auroc"] == pytest.approx(roc_auc_score([0, 0, 1, 1, 1, 0], highest[:, -1]), abs=1e-12)


def test_pixels_of_anomalous_images_alone(seen):
    maps, masks, _, labels = seen
    found = measure(OURS._replace(pixels="anomalous_images"), *seen)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks[2:].ravel(), maps[2:].ravel()), abs=1e-12)
    assert found["pro"] == pro(maps[2:], masks[2:])


def test_pro(seen):
    maps, masks = seen[:2]
    found = measure(OURS._replace(pro_thresholds=200, pro_mean_over="images", pro_rescale="rate"), *seen)
    assert found["pro"] == approximate_pro(maps, masks, 200, "images", "rate")
    flat = measure(OURS._replace(pro_thresholds=3, pro_rescale="rate"), masks * 1.0, *seen[1:])
    assert flat["pro"] is None and "too few of 3" in flat["pro_reason"]


def test_undefined_says_why(seen):
    maps, masks, scores, labels = seen
    found = measure(OURS, maps, None, scores, labels)
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert (found["pro"], found["pro_reason"]) == (None, "the data set has no masks")
    found = measure(OURS._replace(pro_thresholds=200), maps, masks & False, scores, labels)
    assert (found["pro"], found["pro_reason"]) == (None, "no anomalous pixel in any mask")


@pytest.mark.parametrize("size", [24, (24, 40)])
def test_masks(size):
    rng = np.random.default_rng(1)
    mask = np.zeros((70, 90), dtype=bool)
    mask[10:31, 20:55] = mask[50, 60:70] = True
    mask |= rng.random(mask.shape) < 0.1
    ours = resize_mask(mask, size, OURS)
    assert np.array_equal(ours, resize_ours(mask, size, False)[0].numpy())
    grown = resize_mask(mask, size, OURS._replace(mask_cut=0))
    shrunk = resize_mask(mask, size, OURS._replace(mask_cut=0.998))
    assert grown.sum() > ours.sum() > shrunk.sum() and (grown >= ours).all() and (ours >= shrunk).all()


def test_a_pixel_half_covered_is_lost_in_float_and_kept_in_8_bits():
    """127.5 of 255 becomes 128, above half; 0.5 is not above it."""
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :5] = True  # at half the size, the border cuts a pixel in two halves
    by_8_bits, by_float = (
        resize_mask(mask, 4, OURS._replace(mask_resize=m)) for m in ("bilinear_8bit", "bilinear_float")
    )
    assert by_8_bits[:, 2].all() and not by_float[:, 2].any()
    nearest = resize_mask(mask, 4, OURS._replace(mask_resize="nearest"))
    assert np.array_equal(nearest, mask[1::2, 1::2])


@pytest.mark.parametrize("sides", [(256, 256), (64, 96), (13, 11), (1, 3)])
def test_the_middle_is_torchvisions(sides):
    values = np.arange(sides[0] * sides[1], dtype=np.float64).reshape(sides)
    kept = [round(0.875 * side) or 1 for side in sides]
    assert np.array_equal(crop(values, 0.875), center_crop(torch.from_numpy(values)[None], kept)[0].numpy())
    assert crop(values, 1.0).shape == sides


def test_maps_are_cropped_then_resized_bilinearly():
    values = np.arange(64, dtype=np.float64).reshape(8, 8)
    found = resize_map(values, OURS._replace(crop=0.5, map_size=2))
    middle = values[2:6, 2:6]  # each of 2 x 2 lies in the middle of four pixels
    assert np.allclose(found, middle.reshape(2, 2, 2, 2).mean(axis=(1, 3)))


def test_epochs():
    def test(image, pixel, pro):
        return {"image_auroc": image, "pixel_auroc": pixel, "pro": pro}

    each = [test(0.75, 0.5, 0.5), test(0.5, 1.0, 1.0)]
    assert choose_epoch(each, "tested") == test(0.625, 0.75, 0.75)
    assert choose_epoch(each, "best_image_auroc") == each[0]
    assert choose_epoch(each, "best_of_three") == each[1]
    none = [{"image_auroc": 0.5, "pro": None, "pro_reason": "none", "pixel_auroc": 1.0}] * 2
    assert choose_epoch(none, "tested") == none[0] == choose_epoch(none, "best_of_three")


def test_maps_beyond_the_memory_are_not_kept():
    """100 maps of 256 px are 26 MB; counting takes 8 times as much besides."""
    callback = ProtocolTest([Protocol("large", map_size=1024)], memory_gb=1.0)
    data = SimpleNamespace(image_size=256, test_samples=[None] * 100)
    trainer = SimpleNamespace(datamodule=data)
    callback.on_test_start(trainer, None)
    assert callback.reasons == {"large": "maps of 100 images need metrics.memory_gb=3.2 to be counted so"}
    callback.on_test_end(trainer, None)
    found = callback.summarise()
    assert found["pro@large"] is None and found["pro@large_reason"] == callback.reasons["large"]
    assert len([key for key in found if key.endswith("_reason")]) == 7
    callback.protocols = [OURS, Protocol("large", map_size=1024)]
    callback.on_test_start(trainer, None)
    assert not callback.reasons["ours"] and callback.reasons["large"]


def test_a_run_without_test_images_says_so():
    found = ProtocolTest([OURS]).summarise()
    assert found["protocol@ours"] == "" and found["image_auroc@ours_reason"] == "no image in the test set"
    assert found == {"protocol@ours": ""} | {
        f"{key.removesuffix('_reason')}@ours{'_reason' * key.endswith('_reason')}": value
        for key, value in refuse("no image in the test set").items()
    }
