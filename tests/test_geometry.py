"""Rectangles: from the command line to the exported file, and squares that stay as they were."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import kdad
from kdad.errors import UserError
from kdad.figures.gallery import split_picture
from kdad.geometry import as_pair, check_divisible, name_size, simplify
from kdad.teacher.pyramid import FeaturePyramid
from tests.inference.trained import train


def test_sizes_are_numbers_or_pairs():
    assert as_pair(64) == (64, 64) and as_pair([64, 96]) == (64, 96)
    assert simplify([64, 64]) == 64 and simplify([64, 96]) == (64, 96)
    assert name_size(64) == name_size([64, 64]) == "64" and name_size((64, 96)) == "64 x 96"


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        (100, "such as 96 or 128$"), (28, "such as 32$"), ([100, 64], r"such as \[96,64\] or \[128,64\]$"),
        ([64, 70], r"such as 64 or \[64,96\]$"), ([8, 64], r"such as \[32,64\]$"),
    ],
)  # fmt: skip
def test_a_size_that_a_stride_does_not_divide_is_refused_with_the_nearest(size, nearest):
    with pytest.raises(UserError, match="must be a multiple of 32, the stride of the embedding, " + nearest):
        check_divisible(size, 32, "the embedding")


@pytest.mark.parametrize("size", [[32, 64], [96, 64], [64, 160]])
@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "swin_tiny_patch4_window7_224", "test_convnext.r160_in1k"])
def test_levels_of_a_rectangle_are_as_oblong(name, size):
    pyramid = FeaturePyramid(name, [0, 1, 2], size).eval()
    found = pyramid(torch.rand(1, 3, *size))
    square = FeaturePyramid(name, [0, 1, 2], 64)
    assert pyramid.strides == square.strides and pyramid.channels == square.channels
    for level, stride, channels in zip(found, pyramid.strides, pyramid.channels, strict=True):
        assert level.shape == (1, channels, size[0] // stride, size[1] // stride)


@pytest.mark.slow
def test_a_network_that_gives_its_levels_itself_has_a_student_too():
    asked = FeaturePyramid("hrnet_w18_small", [1, 2, 3], [64, 96])
    student = FeaturePyramid("hrnet_w18_small", asked.paths, [64, 96])
    assert student.shapes == asked.shapes


@pytest.mark.training
@pytest.mark.parametrize("model", ["rd", "stpm", "mkd", "dskd"])
def test_a_rectangle_is_trained_tested_judged_and_stored(model, tmp_path):
    trained = train(model, tmp_path, "image_size=[64,96]", "pictures=1")
    results = json.loads((trained.folder / "results.json").read_text())
    assert results["status"] == "ok" and results["image_size"] == [64, 96] and results["image_auroc"] is not None
    detector = kdad.load(trained.folder, weights=str(trained.weights))
    assert detector.image_size == (64, 96)
    result = detector(trained.pictures / "square/0.png")
    assert result.map.shape == (64, 96) and result.anomaly_map.shape == (70, 90)
    assert result.overlay().size == (90, 70)
    image, colours, mask = split_picture(next((trained.folder / "maps").iterdir()))
    assert image.shape == colours.shape == (64, 96, 3) and mask is None


@pytest.mark.training
def test_equal_sides_are_a_square_to_the_bit(tmp_path):
    found = []
    for number, size in enumerate(("64", "[64,64]")):
        (tmp_path / str(number)).mkdir()
        trained = train("stpm", tmp_path / str(number), f"image_size={size}")
        found.append([line.split(",")[1:] for line in (trained.folder / "scores.csv").read_text().splitlines()])
    assert found[0] == found[1]


def test_a_picture_of_rectangles_is_split_where_its_gaps_are(tmp_path):
    rng = np.random.default_rng(0)
    for count in (2, 3):
        for height, width in ((20, 30), (30, 20), (20, 20), (10, 34)):
            parts = [rng.integers(0, 200, (height, width, 3), dtype=np.uint8) for _ in range(count)]
            gap = np.full((height, 2, 3), 255, np.uint8)
            whole = np.concatenate([part for one in parts for part in (one, gap)][:-1], axis=1)
            Image.fromarray(whole).save(tmp_path / "picture.png")
            image, colours, mask = split_picture(tmp_path / "picture.png")
            assert (image == parts[0]).all() and (colours == parts[1]).all()
            assert (mask is None) == (count == 2)
