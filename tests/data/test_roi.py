"""The region of interest: what lies outside it changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from kdad.data.roi import FILL, Roi, blank, resize_roi, restore_roi
from kdad.errors import UserError
from kdad.metrics import DetectionMetrics
from kdad.models.base import keep_inside
from tests.contract.test_contract import MODELS, build


def save(values, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("given", [[2, 1, 8, 5], [0.2, 0.1, 0.8, 0.5]])
def test_a_rectangle_in_pixels_or_shares(tmp_path, given):
    inside = Roi(given, tmp_path).find(tmp_path / "a.png", (10, 10))
    expected = np.zeros((10, 10), bool)
    expected[1:5, 2:8] = True
    assert np.array_equal(inside, expected)


@pytest.mark.parametrize("top", [1, 255])
def test_a_mask_is_of_interest_where_it_is_not_0(tmp_path, top):
    expected = np.random.default_rng(0).random((6, 9)) > 0.5
    save(expected * top, tmp_path / "roi.png")
    assert np.array_equal(Roi("roi.png", tmp_path).find(tmp_path / "a.png", (9, 6)), expected)


def test_whatever_is_not_0_is_of_interest(tmp_path):
    save([[0, 1, 2], [100, 255, 0]], tmp_path / "roi.png")
    inside = Roi("roi.png", tmp_path).find(tmp_path / "a.png", (3, 2))
    assert inside.tolist() == [[False, True, True], [True, True, False]]


def test_a_folder_has_a_mask_for_each_picture(tmp_path):
    save(np.eye(4) * 255, tmp_path / "roi/part/test/a.png")
    save(np.ones((4, 4)), tmp_path / "roi/b.png")
    roi = Roi("roi", tmp_path)
    assert np.array_equal(roi.find(tmp_path / "part/test/a.jpg", (4, 4)), np.eye(4, dtype=bool))
    assert roi.find(tmp_path / "other/b.png", (4, 4)).all()
    elsewhere = Roi(str(tmp_path / "roi"), Path("/somewhere/else"))
    assert np.array_equal(elsewhere.find(tmp_path / "part/test/a.jpg", (4, 4)), np.eye(4, dtype=bool))
    with pytest.raises(UserError, match=r"there is no mask called as the image .*part/c.png, such as part/c.png"):
        roi.find(tmp_path / "part/c.png", (4, 4))


@pytest.mark.parametrize(("given", "message"), [
    ([0, 0, 1], "dataset.roi=.0, 0, 1.: give .left,top,right,bottom."), ([5, 0, 2, 4], "no rectangle"), (7, "give"),
    ([0, 0, "a", 1], "give"), ([20, 0, 30, 4], "lies outside the image .*a.png of 10 x 8"), ("none.png", "no such file"),
    ([0, 0, 0.05, 1], "holds no whole pixel of the image .*a.png of 10 x 8"),
    ("text.png", "dataset.roi: the mask .*text.png cannot be read"), ("empty.png", "is 0 everywhere"), ("small.png", "is 4 x 4 pixels, but the image .*a.png 10 x 8"),
])  # fmt: skip
def test_what_is_no_region_is_refused(tmp_path, given, message):
    save(np.zeros((8, 10)), tmp_path / "empty.png")
    save(np.ones((4, 4)), tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=message):
        Roi(given, tmp_path).find(tmp_path / "a.png", (10, 8))


def test_a_rectangle_that_reaches_beyond_pictures_is_told_of_once(tmp_path, caplog):
    roi = Roi([2, 1, 12, 5], tmp_path)
    inside = roi.find(tmp_path / "a.png", (10, 8))
    assert inside.sum() == 8 * 4 and "[2, 1, 12, 5] reaches beyond the image" in caplog.text and "10 x 8" in caplog.text
    roi.find(tmp_path / "b.png", (10, 8))
    assert len(caplog.records) == 1
    Roi([2, 1, 10, 8], tmp_path).find(tmp_path / "a.png", (10, 8))
    Roi([0.2, 0.1, 1, 1], tmp_path).find(tmp_path / "a.png", (10, 8))
    assert len(caplog.records) == 1


def test_a_checkpoint_holds_it_without_the_file(tmp_path):
    """Of a mask whose first pixel is inside, and of one whose first is not."""
    for first in (True, False):
        expected = np.random.default_rng(0).random((6, 9)) > 0.5
        expected[0, 0] = first
        file = save(expected * 255, tmp_path / "roi.png")
        plain = Roi("roi.png", tmp_path).to_plain()
        file.unlink()
        found = restore_roi(plain)
        assert np.array_equal(found.find(tmp_path / "a.png", (9, 6)), expected) and found.to_plain() == plain
    assert restore_roi({"rectangle": [0, 0, 0.5, 1]}).find(tmp_path / "a", (4, 2)).tolist() == [[1, 1, 0, 0]] * 2
    assert restore_roi(None) is None
    with pytest.raises(UserError, match="roi=<folder>"):
        restore_roi({"folder": "x"})
    with pytest.raises(UserError, match="roi=nowhere: no such folder"):
        restore_roi({"folder": "x"}, "nowhere")
    with pytest.raises(UserError, match="only a detector trained with"):
        restore_roi(None, "masks")


def test_outside_it_a_picture_has_one_colour():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8))
    inside = np.zeros((4, 6), bool)
    inside[1:3, 2:4] = True
    pixels = np.asarray(blank(image, inside))
    assert np.array_equal(pixels[inside], np.asarray(image)[inside]) and (pixels[~inside] == FILL).all()
    assert blank(image, None) is image


def test_a_small_region_does_not_vanish_when_it_is_resized():
    inside = np.zeros((100, 100), bool)
    inside[50, 50] = True
    assert resize_roi(inside, 10).sum() >= 1


@pytest.mark.parametrize("model", MODELS)
def test_outside_it_a_map_is_0_and_scores_nothing(model):
    detector = build(model=model).eval()
    images, roi = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    roi[:, :, 16:48, 16:40] = True
    whole, part = detector.detect({"image": images}), detector.detect({"image": images, "roi": roi})
    assert not part.anomaly_map[~roi].any()
    if model == "mkd":  # whose score is a loss of features: those that see the region alone
        assert not torch.equal(part.image_score, whole.image_score)
        return
    assert torch.equal(part.anomaly_map[roi], whole.anomaly_map[roi])
    assert torch.equal(part.image_score, part.anomaly_map.amax(dim=(1, 2, 3)))
    assert keep_inside(whole.anomaly_map, {}) is whole.anomaly_map


@pytest.mark.parametrize("mode", ["exact", "streaming"])
def test_pixels_outside_it_count_in_no_metric(mode):
    rng = np.random.default_rng(0)
    maps, masks = rng.random((4, 1, 8, 8)), rng.random((4, 1, 8, 8)) > 0.7
    masks[:2] = False
    roi = np.broadcast_to(rng.random((1, 1, 8, 8)) > 0.4, maps.shape).copy()
    metrics = DetectionMetrics(mode)
    for part in (slice(0, 1), slice(1, 4)):
        metrics.update(
            torch.arange(4)[part], torch.rand(4)[part], torch.tensor([0, 0, 1, 1])[part],
            *(torch.from_numpy(values[part]) for values in (maps, masks, roi)),
        )  # fmt: skip
    found = metrics.compute().metrics
    error = found.get("pixel_auroc_error", 0) + 1e-12
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks[roi], maps[roi]), abs=error)
