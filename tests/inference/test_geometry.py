"""Detectors of tiles and of a region of interest, from training to a picture of their user's."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import kdad
from kdad.errors import UserError
from kdad.inference.trained import read_checkpoint
from tests.inference.trained import MODELS, train

pytestmark = pytest.mark.training
HEIGHT, WIDTH = 70, 90
ROI = [0, 0, 90, 45]


def read_rows(run):
    with (run.folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", params=MODELS)
def tiled(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(f"tiled_{request.param}")
    return train(request.param, place, "tiling.size=48", "tiling.overlap=12", "pictures=4")


@pytest.fixture(scope="module", params=["rd", "mkd"])
def inside(request, tmp_path_factory):
    return train(request.param, tmp_path_factory.mktemp(f"roi_{request.param}"), f"dataset.roi={ROI}", "pictures=4")


def test_a_picture_in_tiles_scores_as_in_the_test(tiled):
    detector = kdad.load(tiled.folder)
    rows = read_rows(tiled)
    for row, result in zip(rows, detector(row["path"] for row in rows), strict=True):
        assert result.score == pytest.approx(float(row["score"]), rel=1e-6)
        assert result.map.shape == result.anomaly_map.shape == (HEIGHT, WIDTH)
    assert json.loads((tiled.folder / "results.json").read_text())["n_normal_tiles"] == 8 * 2 * 3
    drawn = sorted((tiled.folder / "maps").iterdir())
    assert len(drawn) == 4 and Image.open(drawn[0]).size == (2 * WIDTH + 2, HEIGHT)


def test_a_larger_picture_costs_no_more_memory_but_for_itself(tiled):
    """The network sees no more tiles at once than a batch, however large the picture."""
    detector, seen = kdad.load(tiled.folder, batch_size=3), []
    detect = detector.network.detect
    detector.network.detect = lambda batch: (seen.append(len(batch["image"])), detect(batch))[1]
    result = detector(np.zeros((200, 300, 3), np.uint8))
    assert result.map.shape == (200, 300) and max(seen) == 3 and sum(seen) == 6 * 8


def test_nothing_outside_the_region_changes_a_score(inside):
    detector = kdad.load(inside.folder)
    picture = np.random.default_rng(0).integers(60, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    other = picture.copy()
    other[45:] = 250
    one, two = detector(picture), detector(other)
    assert one.score == two.score and np.array_equal(one.map, two.map)
    assert not one.anomaly_map[45:].any() and one.anomaly_map[:45].any() and not one.mask[45:].any()
    assert one.area == one.mask[:45].mean()
    changed = picture.copy()
    changed[10:30, 10:30] = 250
    assert detector(changed).score != one.score


def test_the_test_phase_looks_inside_alone(inside):
    detector = kdad.load(inside.folder)
    rows = read_rows(inside)
    for row, result in zip(rows, detector(row["path"] for row in rows), strict=True):
        assert result.score == pytest.approx(float(row["score"]), rel=1e-6)
    assert read_checkpoint(inside.checkpoint)["kdad"]["roi"] == {"rectangle": ROI}


def test_tiles_and_a_region_together(tmp_path):
    """A mask of the pictures' size; tiles without a pixel of interest are neither trained on nor judged."""
    Image.fromarray(np.pad(np.full((15, 15), 255, np.uint8), ((0, 55), (0, 75)))).save(tmp_path / "roi.png")
    run = train("stpm", tmp_path, "tiling.size=32", "tiling.overlap=0", f"dataset.roi={tmp_path / 'roi.png'}")
    assert json.loads((run.folder / "results.json").read_text())["n_normal_tiles"] == 8 * 1
    (tmp_path / "roi.png").unlink()
    detector = kdad.load(run.folder)
    result = detector(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    assert result.anomaly_map[:15, :15].any() and not result.anomaly_map[15:].any()
    with pytest.raises(UserError, match="the mask of training is 90 x 70 pixels, but the image .*100 x 70"):
        detector(np.zeros((70, 100, 3), np.uint8))


def test_a_mask_for_each_picture(tmp_path):
    masks = tmp_path / "roi"
    for kind, n in (("normal", 10), ("square", 2)):
        (masks / kind).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(np.pad(np.full((40, 90), 255, np.uint8), ((i, 30 - i), (0, 0)))).save(
                masks / kind / f"{i}.png"
            )
    run = train("stpm", tmp_path, f"dataset.roi={masks}")
    with pytest.raises(UserError, match="roi=<folder>"):
        kdad.load(run.folder)
    Image.fromarray(np.full((70, 90), 255, np.uint8)).save(masks / "mine.png")
    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(tmp_path / "mine.png")
    detector = kdad.load(run.folder, roi=masks)
    assert detector(tmp_path / "mine.png").roi.all()
    rows = read_rows(run)
    assert detector(rows[0]["path"]).roi.sum() == 40 * 90
    Image.fromarray(np.zeros((70, 90), np.uint8)).save(tmp_path / "other.png")
    with pytest.raises(UserError, match="no mask called as the image .*other.png"):
        detector(tmp_path / "other.png")


def test_other_rooms_agree(tiled):
    """A corruption of whole pictures, a network's own input for an export."""
    detector = kdad.load(tiled.folder)
    tiles = detector.cut(detector.open_picture(read_rows(tiled)[0]["path"]))
    found = detector.network.judge({"tiles": tiles})
    alone = [detector.network.detect({"image": tile[None].float() / 255}).image_score.item() for tile in tiles.images]
    assert found.image_score.item() == pytest.approx(max(alone), rel=1e-5)
    assert torch.isfinite(found.anomaly_map).all()
