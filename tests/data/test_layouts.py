"""Data sets in the layouts in which they are downloaded: what is read from where, and what is refused."""

import logging
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from kdad.data import STC, MVTec, VisA
from kdad.errors import UserError
from kdad.settings.compose import CONF
from kdad.settings.create import create
from tests.layouts import LAYOUTS, N_ANOMALOUS, N_NORMAL, N_TRAIN, N_VALIDATION, SIDE, mask, pictures, save


def settings(name: str) -> DictConfig:
    content = yaml.safe_load((CONF / "dataset" / f"{name}.yaml").read_text())
    return OmegaConf.create({key: value for key, value in content.items() if key not in ("defaults", "root")})


@pytest.fixture
def read(tmp_path, caplog):
    """read(name, **changes) -> a data module of its YAML on its tiny copy, which is written once."""

    def build(name: str, **changes):
        root = tmp_path / name
        category = str(changes.pop("category", None) or LAYOUTS[name](root))
        common = {"image_size": SIDE, "batch_size": 4, "official": None}
        return create(settings(name), root=str(root), category=category, **(common | changes))

    return build


def refusal(data) -> str:
    with pytest.raises(UserError) as caught:
        data.check()
    return str(caught.value)


def masks_of(data) -> list[np.ndarray]:
    """Of the anomalous test images, as loaded at their own size."""
    data.setup()
    batches = list(data.test_dataloader())
    assert data.facts["n_empty_masks"] == data.facts["n_nonbinary_masks"] == data.facts["n_vanished_masks"] == 0
    return [m[0].numpy() for batch in batches for m, label in zip(batch["mask"], batch["label"], strict=True) if label]


KINDS = {
    "mpdd": {"good": N_NORMAL, "anomalous": N_ANOMALOUS},
    "mvtec3d": {"good": N_NORMAL, "crack": N_ANOMALOUS, "hole": N_ANOMALOUS},
    "mvtec_ad2": {"good": N_NORMAL, "bad": N_ANOMALOUS},
    "mvtec_loco": {"good": N_NORMAL, "logical_anomalies": N_ANOMALOUS, "structural_anomalies": N_ANOMALOUS},
    "btad": {"good": N_NORMAL, "ko": N_ANOMALOUS},
    "visa": {"good": N_NORMAL, "anomaly": N_ANOMALOUS},
    "real_iad": {"good": N_NORMAL, "BX": N_ANOMALOUS, "HS": N_ANOMALOUS},
}


@pytest.mark.parametrize("name", KINDS)
def test_each_image_in_its_part_with_its_mask(read, name):
    data = read(name)
    data.check()
    assert len(data.train_samples) == N_TRAIN and {s.label for s in data.train_samples} == {0}
    assert Counter(s.kind for s in data.test_samples) == KINDS[name]
    assert all((s.kind != "good") == s.label == (s.mask is not None) for s in data.test_samples)
    used = [s.path for s in data.train_samples + data.val_samples + data.test_samples]
    assert len(set(used)) == len(used) and all(path.is_file() for path in used)
    found = masks_of(data)
    assert len(found) == sum(KINDS[name].values()) - N_NORMAL
    assert all(np.array_equal(m, mask() > 0) for m in found)


def test_every_product_of_btad_in_its_mix_of_suffixes(read):
    for product in ("01", "02", "03"):
        data = read("btad", category=product) if product != "01" else read("btad")
        assert data.categories() == ["01", "02", "03"] and data.category == product
        assert len(masks_of(data)) == N_ANOMALOUS


def test_only_colour_images_of_mvtec3d(read):
    data = read("mvtec3d")
    data.check()
    assert {s.path.parent.name for s in data.train_samples + data.val_samples + data.test_samples} == {"rgb"}
    assert {s.mask.parent.name for s in data.test_samples if s.label} == {"gt"}


def test_private_pictures_of_mvtec_ad2_are_neither_used_nor_warned_of(read, caplog):
    data = read("mvtec_ad2")
    data.check()
    used = [s.path for s in data.train_samples + data.val_samples + data.test_samples]
    assert not any(part in ("test_private", "test_private_mixed") for path in used for part in path.parts)
    assert not caplog.records


# Validation images of the set's own


@pytest.mark.parametrize("name", ["mvtec3d", "mvtec_ad2", "mvtec_loco"])
@pytest.mark.parametrize("val_fraction", [0.0, 0.5])
def test_its_own_normals_validate_whatever_the_fraction(read, name, val_fraction):
    data = read(name, val_fraction=val_fraction)
    data.check()
    assert (data.facts["n_train"], data.facts["n_val"]) == (N_TRAIN, N_VALIDATION)
    assert all("validation" in s.path.parts for s in data.val_samples)
    assert all("train" in s.path.parts for s in data.train_samples)
    data.setup()
    assert sum(len(batch["index"]) for batch in data.val_dataloader()) == N_VALIDATION


def test_without_them_training_images_are_held_out(read):
    data = read("mvtec3d", validation=None, val_fraction=0.25)
    data.check()
    assert (data.facts["n_train"], data.facts["n_val"]) == (N_TRAIN - 2, 2)
    assert not any("validation" in s.path.parts for s in data.train_samples + data.val_samples)


def test_fewer_training_images_are_validated_on_fewer(read):
    data = read("mvtec3d", train_fraction=0.5)
    data.check()
    assert (data.facts["n_train"], data.facts["n_val"]) == (N_TRAIN // 2, N_VALIDATION // 2)


# A further set of folder type


def test_a_further_set_is_a_yaml(tmp_path):
    root, normal, anomalous = tmp_path / "mine", pictures(), pictures(True)
    for place in ("part a/ok/left/a.png", "part a/ok/left/b.png", "part a/try/fine/left/a.png"):
        save(root / place, next(normal))
    save(root / "part a/try/torn/left/x.y.png", next(anomalous))
    save(root / "part a/truth/torn-x.y.TIF", mask(3))
    text = f"""
        _target_: kdad.data.MVTec
        name: mine
        root: {root}
        category: part a
        image_size: {SIDE}
        batch_size: 2
        train: ok/left
        test: try/{{kind}}/left
        normal: fine
        masks: truth/{{kind}}-{{stem}}.*
        mask_kind: labels
        obtain: Mine
    """
    data = create(OmegaConf.create(text))
    assert data.categories() == ["part a"]
    (found,) = masks_of(data)
    assert np.array_equal(found, mask() > 0)
    assert [(s.kind, s.label) for s in data.test_samples] == [("good", 0), ("torn", 1)]
    assert data.layout == "<category>/ok/left, <category>/try/<kind>/left, <category>/truth/<kind>-<stem>.*"


@pytest.mark.parametrize(
    ("key", "value"),
    [("train", "."), ("test", "test"), ("test", "test/a{kind}"), ("masks", "{name}.png"), ("mask_kind", "gray")],
)
def test_patterns_that_cannot_be_meant(tmp_path, options, key, value):
    with pytest.raises(UserError, match=f"dataset.{key}="):
        MVTec(**options(tmp_path, **{key: value}))


def test_two_masks_for_one_image(read):
    data = read("btad")
    path = data.root / "01/ground_truth/ko/000"
    shutil.copy(path.with_suffix(".png"), path.with_suffix(".BMP"))
    message = refusal(data)
    assert str(path.with_suffix(".png")) in message and str(path.with_suffix(".BMP")) in message


def test_masks_in_a_folder_for_each_image(read):
    data = read("btad", masks="ground_truth/{kind}/{stem}/region.*")
    for number, edge in (("000", 10), ("001", 20)):
        pixels = np.zeros((SIDE, SIDE), np.uint8)
        pixels[:edge] = 255
        save(data.root / f"01/ground_truth/ko/{number}/region.tif", pixels)
    assert [int(found.sum()) for found in masks_of(data)] == [10 * SIDE, 20 * SIDE]


# What is wrong with a layout is said with the file


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_root_says_where_to_get_it(read, tmp_path, name):
    message = refusal(read(name, category="01"))
    for part in (str(tmp_path / name), "dataset.root=<folder>", "KDAD_DATA", "https://"):
        assert part in message
    assert ("dataset.download=true" in message) == (name in ("btad", "visa"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_header_of_the_yaml_says_what_it_should(name):
    text = (CONF / "dataset" / f"{name}.yaml").read_text()
    header = text[: text.index("defaults:")]
    for word in ("Layout:", "Source:", "Licence:", "Citation:"):
        assert f"\n# {word}" in header


@pytest.mark.parametrize("name", LAYOUTS)
def test_unknown_category(read, name):
    read(name)
    message = refusal(read(name, category="nothing"))
    assert "no category nothing" in message and ", ".join(read(name, category="nothing").categories()) in message


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_mask_is_named(read, name):
    data = read(name)
    data.check()
    sample = next(s for s in data.test_samples if s.label)
    shutil.rmtree(sample.mask) if sample.mask.is_dir() else sample.mask.unlink()
    message = refusal(read(name, category=data.category))
    assert str(sample.path) in message and sample.mask.stem in message


def test_a_mask_of_loco_of_another_size_is_named(read):
    data = read("mvtec_loco")
    for number in ("000", "001"):
        path = data.root / f"breakfast_box/ground_truth/logical_anomalies/001/{number}.png"
        save(path, np.zeros((SIDE, SIDE + 1), np.uint8))
    with pytest.raises(UserError, match=f"{path.parent} is {SIDE + 1} x {SIDE} pixels"):
        data.setup()


def test_regions_of_loco_and_how_much_of_each_is_enough(read):
    """At half the size: the upper region of 10 x 20 px, 49 px enough, is 5 x 10 px, 49 / 4; of the lower one half."""
    data = read("mvtec_loco", image_size=SIDE // 2)
    data.setup()
    assert sorted(data.regions) == [i for i, s in enumerate(data.test_samples) if s.label]
    for of_image in data.regions.values():
        upper, lower = of_image
        assert (upper.saturation, lower.saturation) == (49 / 4, 0.5 * 5 * 10)
        assert upper.mask[10:15, 15:25].all() and upper.mask.sum() == 50
        assert lower.mask[15:20, 15:25].all() and lower.mask.sum() == 50
    assert read("mvtec_loco", category="breakfast_box", saturation=None).regions == {}


def test_a_region_of_loco_that_vanishes_is_counted(read):
    data = read("mvtec_loco", image_size=16)
    dot = np.zeros((SIDE, SIDE), np.uint8)
    dot[5, 5] = 255
    save(data.root / "breakfast_box/ground_truth/logical_anomalies/000/002.png", dot)
    data.setup()
    assert data.facts["n_vanished_regions"] == 1 and {len(found) for found in data.regions.values()} == {2}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"pixel_value": 247',
            '"pixel_value": 246',
            "00[01]/001.png has the value 247, .* there are some for 246, 255",
        ),
        ('"saturation_threshold": 49, ', "", "defects_config.json, entry 0: KeyError.'saturation_threshold'"),
        ('"saturation_threshold": 49', '"saturation_threshold": -1', "entry 0: .*not above 0"),
        ("[{", "{", "cannot read the saturation thresholds .*defects_config.json: .* dataset.saturation=null"),
    ],
)
def test_saturation_thresholds_of_loco_that_cannot_be_used(read, old, new, message):
    data = read("mvtec_loco")
    path = data.root / "breakfast_box/defects_config.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        data.setup()


def test_loco_without_saturation_thresholds(read, caplog):
    data = read("mvtec_loco")
    (data.root / "breakfast_box/defects_config.json").unlink()
    data.setup()
    assert data.regions == {} and "defects_config.json: without sPRO" in caplog.text


def changed_table(data: VisA, old: str, new: str) -> None:
    path = data.root / "split_csv/1cls.csv"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label,image,mask", "label,image,masks", "line 2: no column mask"),
        ("candle,test,anomaly", "candle,train,anomaly", "trains on the anomalous image"),
        ("candle,test,anomaly", "candle,test,bad", "line 13: label is 'bad', not normal or anomaly"),
        ("candle,test", "candle,val", "split is 'val', not train or test"),
        ("Images/Normal/003.JPG", "Images/Normal/903.JPG", "cannot read image .*903.JPG"),
        ("candle/Data/Masks/Anomaly/001.png", "", "no mask file for the anomalous image .*Anomaly/001.JPG"),
    ],
)
def test_a_table_of_visa_that_cannot_be_used(read, old, new, message):
    data = read("visa")
    changed_table(data, old, new)
    with pytest.raises(UserError, match=message):
        data.check()


def test_a_missing_table_of_visa_names_others(read):
    data = read("visa", split="2cls_fewshot")
    assert "2cls_fewshot.csv" in refusal(data) and "Splits there: 1cls." in refusal(data)


# Real-IAD


def test_views_of_real_iad(read):
    """The training pictures are of C1 C2 C3 C4 C5 C1 C2 C3, the others of C1 C2 C3, C1 C2 and C1 C2."""
    for views, trained, tested in (("[C1,C2]", 4, 2 + 2 + 2), ("C3", 2, 1), ("all", N_TRAIN, 7)):
        data = read("real_iad", category="audiojack" if (views != "[C1,C2]") else None, views=yaml.safe_load(views))
        data.check()
        assert (data.facts["n_train"], data.facts["n_test"]) == (trained, tested)
        used = {re.search("_(C.)_", s.path.name)[1] for s in data.train_samples + data.test_samples}
        assert used == {"[C1,C2]": {"C1", "C2"}, "C3": {"C3"}, "all": {"C1", "C2", "C3", "C4", "C5"}}[views]


def test_a_split_of_real_iad_with_anomalous_training_images(read, caplog):
    """They pass for normal, and are no longer tested."""
    data = read("real_iad", json="realiad_jsons_fuiad_0.1")
    data.check()
    assert data.facts["n_train"] == N_TRAIN + 1 and {s.label for s in data.train_samples} == {0}
    assert Counter(s.kind for s in data.test_samples) == {"good": N_NORMAL, "BX": N_ANOMALOUS, "HS": N_ANOMALOUS - 1}
    assert "1 of 9 training images are anomalous, by" in caplog.text


def test_splits_of_real_iad_beside_the_pictures(read):
    data = read("real_iad")
    for path in (data.root / "realiad_jsons/realiad_jsons").iterdir():
        path.rename(data.root / "realiad_jsons" / path.name)
    data.check()
    assert data.facts["n_train"] == N_TRAIN and data.categories() == ["audiojack"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"test":', '"tests":', "audiojack.json: no list 'test' of images"),
        ('{"meta"', '["meta"', "cannot read the split .*audiojack.json"),
        (
            '"image_path": "OK/S0001',
            '"image": "OK/S0001',
            r"audiojack.json, train\[1\]: expected an object with image_path",
        ),
        ("OK_C3_train", "OK_C9_train", r"audiojack.json, train\[2\]: no image .*OK_C9_train.jpg"),
        (
            '"OK", "image_path": "OK/S0003',
            '"BX", "image_path": "OK/S0003',
            r"train\[3\]: trains on the anomalous image",
        ),
        ('"NG/BX/S0000/audiojack_0000_NG_C1_test.png"', "null", "no mask .*for the anomalous image .*NG/BX/S0000"),
    ],
)
def test_a_split_of_real_iad_that_cannot_be_used(read, old, new, message):
    data = read("real_iad")
    path = data.root / "realiad_jsons/realiad_jsons/audiojack.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        data.check()


def test_what_real_iad_has_not(read):
    read("real_iad")
    for changes, message in (
        ({"json": "realiad_jsons_sv"}, "Splits there: realiad_jsons, realiad_jsons_fuiad_0.1."),
        ({"views": ["C1", "C6"]}, r"dataset.views=\['C1', 'C6'\]: give all, or a list of C1, C2"),
        ({"views": []}, "dataset.views="),
        ({"resolution": 300}, "dataset.resolution=300: give one of 256, 512, 1024, raw"),
        ({"resolution": 512}, "no image .*realiad_512.*dataset.resolution says"),
    ):
        with pytest.raises(UserError, match=message):
            read("real_iad", category="audiojack", **changes).check()
    path = next((read("real_iad", category="audiojack").root / "realiad_1024").rglob("*C2_train.jpg"))
    file = path.parents[4] / "realiad_jsons/realiad_jsons/audiojack.json"
    file.write_text(file.read_text().replace("_C2_train", "_train"))
    path.rename(path.with_name(path.name.replace("_C2_train", "_train")))
    with pytest.raises(UserError, match=r"names no view, such as _C1_"):
        read("real_iad", category="audiojack", views=["C1"]).check()


# ShanghaiTech Campus


@pytest.fixture
def stc(read):
    def build(**changes) -> STC:
        return read("stc", **changes)

    return build


def test_stc_takes_every_nth_frame_of_each_clip(stc):
    data = stc()
    assert data.categories() == ["all", "01", "12"] and data.every == 5
    data.check()
    assert [s.path.name for s in data.train_samples] == ["000.jpg", "005.jpg"] * 2
    assert [s.path.name for s in data.test_samples] == ["000.jpg", "005.jpg", "010.jpg"] * 2
    assert [s.label for s in data.test_samples] == [0, 1, 1] * 2
    scene = stc(category="12", every=1)
    scene.check()
    assert scene.facts["n_train"] == 10 and scene.facts["n_test"] == 11
    assert {s.path.parent.name for s in scene.train_samples + scene.test_samples} == {"12_001", "12_0014"}


def test_stc_gives_each_frame_its_own_mask(stc):
    data = stc(every=2)
    path = data.root / "testing/test_pixel_mask/01_0014.npy"
    masks = np.zeros((11, SIDE, SIDE), bool)
    for i in range(5, 11):
        masks[i, :i, :i] = True
    np.save(path, masks)
    data.category = "01"
    assert [int(m.sum()) for m in masks_of(data)] == [6 * 6, 8 * 8, 10 * 10]


def test_stc_without_pixel_masks_has_image_metrics(stc, caplog):
    data = stc()
    shutil.rmtree(data.root / "testing/test_pixel_mask")
    data.check()
    assert f"no folder {data.root / 'testing/test_pixel_mask'}: image metrics only" in caplog.text
    assert not data.has_masks and sum(s.label for s in data.test_samples) == 4


def test_stc_without_training_clips(stc):
    data = stc()
    shutil.rmtree(data.root / "training")
    assert "has no category" in refusal(data) and "training/videos/<clip>.avi" in refusal(data)


def test_stc_has_scenes_that_are_tested(stc):
    data = stc()
    shutil.copytree(data.root / "training/frames/12_001", data.root / "training/frames/13_001")
    assert data.categories() == ["all", "01", "12"]
    data.check()
    assert "13_001" in {s.path.parent.name for s in data.train_samples}


def test_stc_takes_frames_by_their_number(stc):
    stc()
    data = stc(category="01", every=1)
    frames = data.root / "testing/frames/01_0014"
    for path in sorted(frames.iterdir()):
        path.rename(frames / f"{int(path.stem) + 995}.jpg")  # 995 ... 1005
    data.check()
    assert [int(s.path.stem) for s in data.test_samples if s.label] == list(range(1000, 1006))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_frame_mask", np.zeros(10), r"has the shape \(10,\); the 11 frames in .*01_0014"),
        ("test_pixel_mask", np.zeros((10, SIDE, SIDE)), r"has the shape \(10, 70, 70\); the 11 frames"),
        ("test_pixel_mask", np.zeros(11), r"has the shape \(11,\); the 11 frames in .* 3 dimensions"),
        ("test_frame_mask", None, "cannot read the masks .*test_frame_mask/01_0014.npy"),
        ("test_frame_mask", b"no array", "cannot read the masks .*test_frame_mask/01_0014.npy"),
        ("test_pixel_mask", None, "no mask .*01_0014.npy for the anomalous image .*005.jpg"),
    ],
)
def test_stc_masks_that_do_not_fit(stc, name, content, message):
    data = stc()
    path: Path = data.root / "testing" / name / "01_0014.npy"
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=message):
        data.check()


def test_stc_takes_at_least_each_frame(stc):
    with pytest.raises(UserError, match="dataset.every=0"):
        stc(every=0)


# Official counts


def test_other_counts_than_the_official_warn_and_train(read, caplog):
    official = {"bagel": {"train": N_TRAIN, "validation": 22, "test": 110}}
    with caplog.at_level(logging.WARNING):
        read("mvtec3d", official=official).check()
    (record,) = caplog.records
    found = N_NORMAL + 2 * N_ANOMALOUS
    assert record.message == (
        f"data set mvtec3d, category bagel: {N_VALIDATION} validation images, officially 22; "
        f"{found} test images, officially 110"
    )


def test_official_counts_of_unknown_parts(tmp_path, options):
    with pytest.raises(UserError, match="dataset.official.bagel: no part val;"):
        MVTec(**options(tmp_path, official={"bagel": {"train": 1, "val": 2}}))


@pytest.mark.parametrize(
    ("name", "totals"),
    [
        ("mvtec", {"train": 3629, "test": 1725}),
        ("mvtec3d", {"train": 2656, "validation": 294, "test": 1197}),
        ("mvtec_loco", {"train": 1772 + 6, "validation": 304 + 1, "test": 1568}),
        ("visa", {"train": 8659, "test": 962 + 1200}),
        ("mpdd", {"train": 888, "test": 176 + 282}),
        ("btad", {"train": 1799, "test": 741}),
        ("mtd", {"train": 762, "test": 190 + 392}),
        ("elpv", {"train": 470 + 736, "test": 118 + 313 + 184 + 402}),
    ],
)
def test_official_counts_add_up_to_the_published_totals(name, totals):
    """Each category from its set's own table, the totals from its text; of MVTec LOCO the download has seven more."""
    sums: Counter[str] = Counter()
    for counts in settings(name)["official"].values():
        sums.update(counts)
    assert sums == totals


def test_official_counts_of_stc_are_of_clips(read, caplog):
    official = {"all": {"train": 330, "test": 2}}
    with caplog.at_level(logging.WARNING):
        read("stc", official=official).check()
    (record,) = caplog.records
    assert record.message == "data set stc, category all: 2 train clips, officially 330"


def test_fixed_files_fixed_split(read):
    """Of split seed and names alone, not of the place."""
    first = read("mpdd", val_fraction=0.5)
    other = create(
        settings("mpdd"), root=str(shutil.copytree(first.root, first.root.parent / "moved")), category="tubes",
        image_size=8, batch_size=1, val_fraction=0.5, seed=5,
    )  # fmt: skip
    parts = []
    for data in (first, other):
        data.check()
        parts.append([s.path.relative_to(data.root) for s in data.val_samples])
    assert parts[0] == parts[1] and len(parts[0]) == N_TRAIN // 2
