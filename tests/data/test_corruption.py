"""Corruptions of test images, against their formulas."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

import kdad
from kdad.data import Folder
from kdad.data.corruption import CORRUPTIONS, SEVERITIES, corrupt, corrupt_split
from kdad.data.roi import FILL
from kdad.errors import UserError
from kdad.results.read import read_runs
from kdad.results.series import find_runs
from kdad.results.settings import describe_runs
from kdad.results.statistics import drop_repeats
from kdad.settings import keys
from tests.inference.trained import train


def make_images(n=2, height=32, width=48):
    images = torch.from_numpy(np.random.default_rng(0).integers(60, 180, (n, height, width, 3), dtype=np.uint8))
    masks = torch.zeros(n, 1, height, width, dtype=torch.bool)
    masks[:, :, 10:16, 20:30] = True
    return images, masks


def to_bytes(values):
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def test_the_names_are_those_of_the_configuration():
    assert CORRUPTIONS == keys.CORRUPTIONS


@pytest.mark.parametrize("severity", SEVERITIES)
def test_values_follow_their_formulas(severity):
    images, masks = make_images()
    x = images.numpy().astype(np.float32) / 255
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    expected = {
        "brightness": x + np.float32(0.1 * severity),
        "contrast": mean + (1 - 0.2 * severity) * (x - mean),
        "blur": gaussian_filter(x, (0, severity * 32 / 256, severity * 32 / 256, 0), mode="mirror"),
    }
    for name, values in expected.items():
        found, kept = corrupt(images, masks, name, severity, 0)
        assert np.abs(found.numpy().astype(int) - to_bytes(values)).max() <= 1  # a tie of rounding
        assert torch.equal(kept, masks)
    jpeg, _ = corrupt(images, None, "jpeg", severity, 0)
    file = io.BytesIO()
    Image.fromarray(images[1].numpy()).save(file, "JPEG", quality=100 - 25 * severity)
    assert np.array_equal(jpeg[1].numpy(), np.array(Image.open(file)))


def test_noise_is_as_strong_as_said_and_the_same_again():
    images = torch.full((3, 64, 64, 3), 128, dtype=torch.uint8)
    found, _ = corrupt(images, None, "noise", 2, 0)
    assert (found.float() - 128).std().item() / 255 == pytest.approx(0.06, rel=0.03)
    assert torch.equal(found, corrupt(images, None, "noise", 2, 0)[0])
    assert not torch.equal(found, corrupt(images, None, "noise", 2, 1)[0]) and not torch.equal(found[0], found[1])
    # An image's noise is its own, however many stand before it are changed.
    assert torch.equal(found[:1], corrupt(images[:1], None, "noise", 2, 0)[0])


def test_a_shift_moves_image_and_mask_by_whole_pixels():
    images, masks = make_images(1, 50, 100)
    found, moved = corrupt(images, masks, "shift", 3, 0)  # by 6 % of 100 and of 50
    assert torch.equal(found[0, 3:, 6:], images[0, :-3, :-6])
    assert torch.equal(moved[0, 0, 3:, 6:], masks[0, 0, :-3, :-6])


@pytest.mark.parametrize(("name", "factor"), [("rotate", 1.0), ("scale", 1.09**2)])
def test_turning_keeps_a_regions_area_and_scaling_enlarges_it(name, factor):
    masks = torch.zeros(1, 1, 200, 300, dtype=torch.bool)
    masks[:, :, 60:140, 100:200] = True
    images = masks[:, 0, :, :, None].expand(-1, -1, -1, 3).to(torch.uint8) * 255
    found, moved = corrupt(images, masks, name, 3, 0)
    assert moved.sum() / masks.sum() == pytest.approx(factor, rel=0.02)
    assert torch.equal(moved[0, 0], found[0, :, :, 0] > 127)  # the picture goes where its mask goes
    assert not torch.equal(moved, masks)


def test_nothing_is_nothing():
    images, masks = make_images()
    found = corrupt(images, masks, "none", 3, 0)
    assert found[0] is images and found[1] is masks


@pytest.mark.parametrize(("name", "severity", "told"), [
    ("fog", 1, "corruption=fog: give one of none, brightness"), ("blur", 4, "severity=4: give one of 1, 2, 3"),
])  # fmt: skip
def test_what_there_is_not_is_refused(name, severity, told):
    with pytest.raises(UserError, match=told):
        corrupt(*make_images(), name, severity, 0)


@pytest.mark.training
def test_evaluate_sweeps_corruptions_at_the_trained_threshold(tmp_path, command_line):
    trained = train("stpm", tmp_path)
    weights = f"backbone.weights={trained.weights}"
    sweep = ["-m", f"ckpt_path={trained.checkpoint}", weights, "corruption=none,brightness", "severity=1,3"]
    assert command_line("evaluate", *sweep, f"hydra.sweep.dir={tmp_path / 'out'}") == 0
    found = {}
    for path in sorted((tmp_path / "out").rglob("results.json")):
        results = json.loads(path.read_text())
        found[results.get("corruption"), results.get("severity")] = results
    assert set(found) == {(None, None), ("brightness", 1), ("brightness", 3)}
    own = json.loads((trained.folder / "results.json").read_text())
    assert found[None, None]["image_auroc"] == own["image_auroc"]
    for key, results in found.items():
        assert results["image_threshold"] == own["image_threshold"], key
    # By hand: the brightened pictures, judged one by one, at the trained threshold
    detector = kdad.load(trained.folder, weights=str(trained.weights))
    scores = []
    for line in (trained.folder / "scores.csv").read_text().splitlines()[1:]:
        path, label = line.split(",")[:2]
        picture = np.array(Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))
        bright = Image.fromarray(np.rint(np.minimum(picture / 255 + 0.3, 1) * 255).astype(np.uint8))
        scores.append((int(label), detector(bright).score))
    alarms = [score > own["image_threshold"] for label, score in scores if not label]
    assert found["brightness", 3]["false_alarm_rate"] == pytest.approx(sum(alarms) / len(alarms))
    runs = read_runs([trained.folder, tmp_path / "out"])
    assert len(find_runs([trained.folder, tmp_path / "out"], with_evaluations=True)) == 5
    assert len(find_runs([trained.folder, tmp_path / "out"])) == 3  # what is corrupted is no further detector
    assert len(drop_repeats(describe_runs(runs)[0], ["key", "seed"])[0]) == 3  # nothing is nothing, however severe
    # What is refused leaves nothing that a report would show as a failed run.
    for wrong in ("corruption=fog", "protocol=rdpp_code", "model.levels=[1]", "batch_size=0"):
        assert command_line("evaluate", f"ckpt_path={trained.checkpoint}", weights, wrong) == 2
    assert len(read_runs([trained.folder])) == 1


@pytest.mark.parametrize("in_tiles", [False, True])
def test_a_defect_that_is_moved_into_the_region_of_interest_counts(tmp_path, in_tiles):
    for kind in ("normal", "bad"):
        (tmp_path / kind).mkdir()
        for i in range(5 if kind == "normal" else 1):
            Image.fromarray(np.full((50, 50, 3), 220 - i, np.uint8)).save(tmp_path / kind / f"{i}.png")
    mask = np.zeros((50, 50), np.uint8)
    mask[16:19, 20:24] = 255  # above the region, from which a shift by 3 pixels brings it in
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks/0.png")
    tiling = {"size": 50, "overlap": 0} if in_tiles else None
    data = Folder(
        name="x", root=tmp_path, category=None, image_size=50, batch_size=2, anomalous="bad", masks="masks",
        roi=[10, 19, 40, 40], tiling=tiling, test_fraction=0.2, normal="normal",
    )  # fmt: skip
    data.setup()

    def gather():
        return torch.cat([batch["mask"] for batch in data.test_dataloader()])

    assert not gather().any() and data.facts["n_outside_masks"] == 1 and data.facts["n_empty_masks"] == 0
    corrupt_split(data.splits["test"], "shift", 3, 0)
    moved = np.roll(mask, (3, 3), (0, 1)) > 0
    assert torch.equal(gather().any(dim=0)[0], torch.from_numpy(moved))


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in ("none", "noise")])
@pytest.mark.parametrize("in_tiles", [False, True])
def test_what_lies_outside_the_region_of_interest_is_not_moved_into_it(tmp_path, name, in_tiles):
    """A picture of one value stays one value inside, whatever is done to it: the colour outside comes after."""
    for kind in ("normal", "bad"):
        (tmp_path / kind).mkdir()
        for i in range(5 if kind == "normal" else 1):
            Image.fromarray(np.full((64, 64, 3), 220 - i, np.uint8)).save(tmp_path / kind / f"{i}.png")
    tiling = {"size": 32, "overlap": 0} if in_tiles else None
    data = Folder(
        name="x", root=tmp_path, category=None, image_size=32 if in_tiles else 64, batch_size=2, anomalous="bad",
        roi=[16, 16, 48, 48], tiling=tiling, test_fraction=0.2, normal="normal",
    )  # fmt: skip
    data.setup()
    corrupt_split(data.splits["test"], name, 3, 0)
    for batch in data.test_dataloader():
        inside = (batch["image"] * 255).round()[batch["roi"].expand(-1, 3, -1, -1)]
        outside = (batch["image"] * 255).round().permute(0, 2, 3, 1)[~batch["roi"][:, 0]]
        assert inside.max() - inside.min() <= 2 and inside.min() > 150
        assert (outside == torch.tensor(FILL)).all()
