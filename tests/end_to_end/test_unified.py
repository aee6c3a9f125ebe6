"""unified=true: one detector for several categories, tested on each, beside one detector for each."""

import csv
import json
import shutil
from statistics import fmean

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from kdad.app.examples import find_hardest
from kdad.data import MVTec, Union
from kdad.engine.categories import list_categories, unite
from kdad.engine.unified import average_categories
from kdad.errors import UserError
from kdad.evaluate import main as evaluate
from kdad.results.read import read_runs
from kdad.results.settings import describe_runs
from kdad.settings.compose import compose as kdad_compose
from kdad.settings.compose import list_choices, resolve
from kdad.settings.roles import config_hash

TINY = [
    "dataset=mvtec", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false", "image_size=64", "batch_size=4",
    "trainer.max_epochs=1", "trainer.accelerator=cpu", "pictures=1", "logger=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Categories "dark" and "light" of MVTec's layout, with 8 and 6 training images."""
    root = tmp_path_factory.mktemp("two")
    generator = np.random.default_rng(0)

    def save(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    for name, grey, n in (("dark", 40, 8), ("light", 160, 6)):
        for i in range(n):
            image = generator.integers(grey, grey + 50, (70, 70, 3), dtype=np.uint8)
            save(root / name / "train/good" / f"{i:03d}.png", image)
        for i in range(4):
            image = generator.integers(grey, grey + 50, (70, 70, 3), dtype=np.uint8)
            save(root / name / "test/good" / f"{i:03d}.png", image)
            image, mask = image.copy()[::-1], np.zeros((70, 70), np.uint8)
            image[20:40, 30:50], mask[20:40, 30:50] = 255 - grey, 255
            save(root / name / "test/square" / f"{i:03d}.png", image)
            save(root / name / "ground_truth/square" / f"{i:03d}_mask.png", mask)
    return root


@pytest.fixture
def train(two, command, tmp_path):
    """train("run", "model=stpm", ...) -> the folder of a run that went well."""

    def call(folder, *overrides):
        assert command(*TINY, f"dataset.root={two}", f"hydra.run.dir={folder}", *overrides) == 0
        return tmp_path / folder

    return call


def results(folder):
    return json.loads((folder / "results.json").read_text())


def read_scores(folder):
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [int(row["label"]) for row in rows], [float(row["score"]) for row in rows]


def compose(two, *overrides):
    return kdad_compose("model=stpm", *TINY, f"dataset.root={two}", *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("model", list_choices("model"))
def test_one_detector_is_tested_on_each_category(model, train):
    more = ["backbone.name=vgg16.tv_in1k"] if model == "mkd" else []
    folder = train("run", f"model={model}", "category=all", "unified=true", *more)
    mean, each = results(folder), {name: results(folder / "categories" / name) for name in ("dark", "light")}
    assert (mean["categories"], mean["category_names"], mean["status"]) == (2, ["dark", "light"], "ok")
    assert mean["n_train"] + mean["n_val"] == 14 and mean["n_test"] == 16
    for name, found in each.items():
        place = folder / "categories" / name
        labels, scores = read_scores(place)
        assert (found["category"], found["n_test"], found["status"]) == (name, 8, "ok")
        assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert found["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
        assert all((place / file).is_file() for file in ("config.yaml", "curves.npz", "defects.csv"))
        assert len(list((place / "maps").glob("*.png"))) == 1 and not (place / "checkpoints").exists()
    for metric in ("image_auroc", "image_ap", "pixel_auroc", "pro", "pixel_f1_max", "false_alarm_rate"):
        assert mean[metric] == pytest.approx(fmean(found[metric] for found in each.values()), abs=1e-12)
    assert each["dark"]["image_threshold"] == each["light"]["image_threshold"] == mean["image_threshold"]
    assert not (folder / "scores.csv").exists()


@pytest.mark.parametrize("category", ["light", "[light]"])
def test_a_union_of_one_is_that_category(category, train):
    alone = train("alone", "model=stpm", "category=light")
    union = train("union", "model=stpm", f"category={category}", "unified=true")
    for file in ("scores.csv", "curves.npz", "defects.csv"):
        assert (union / "categories" / "light" / file).read_bytes() == (alone / file).read_bytes()
    own, found = results(alone), results(union)
    assert found["image_auroc"] == own["image_auroc"] and found["loss"] == own["loss"]
    assert found["config_hash"] != own["config_hash"]  # it is another setting all the same


def test_a_unified_run_is_found_evaluated_and_reported(two, train, command, tmp_path, capsys):
    both = ["model=stpm", "category=[light,dark]", "unified=true"]
    folder = train("outputs/both", *both)
    alone = train("outputs/alone", "model=stpm", "category=dark")
    train("elsewhere", "model=stpm", "category=[dark,light]", "unified=true", "skip_done=true")
    assert "Done already" in capsys.readouterr().out and not (tmp_path / "elsewhere/results.json").exists()
    train("elsewhere", "model=stpm", "category=all", "unified=true", "skip_done=true")
    assert "Done already" in capsys.readouterr().out  # all of them are the same two

    runs = describe_runs(read_runs([tmp_path]))[0]
    assert sorted(zip(runs["category"], runs["settings"], runs["kind"], strict=True)) == [
        ("dark", "unified=false", "run"), ("dark", "unified=true", "run"), ("light", "unified=true", "run")
    ]  # fmt: skip

    of_both = find_hardest(folder / "checkpoints" / "tested.ckpt", 16)  # for kdad app
    assert {example.path.parents[2].name for example in of_both} == {"dark", "light"} and len(of_both) == 16

    assert command(f"ckpt_path={folder}", "model.map_size=16", main=evaluate) == 0
    (again,) = (folder / "evaluations").iterdir()
    assert results(again)["categories"] == 2 and "fit_seconds" not in results(again)
    assert read_scores(again / "categories" / "dark") != ([], [])
    assert command(f"ckpt_path={folder}", "category=dark", main=evaluate) == 0
    (other,) = set((folder / "evaluations").iterdir()) - {again}
    assert results(other)["trained_on"] == "mvtec dark+light" and results(other)["categories"] == 1
    assert read_scores(other / "categories" / "dark") == read_scores(folder / "categories" / "dark")
    kinds = read_runs([folder / "evaluations"])
    assert sorted(kinds["category"]) == ["dark", "dark", "light"] and set(kinds["kind"]) == {"evaluation"}

    for typed, said in (
        ([f"ckpt_path={folder}", "unified=false", "category=dark"], "unified=False needs training"),
        ([f"ckpt_path={alone}", "category=[dark,light]"], "tested on one category"),
        ([f"ckpt_path={alone}", "unified=true"], "unified=True needs training"),
    ):
        capsys.readouterr()
        assert command(*typed, main=evaluate) == 2
        assert said in capsys.readouterr().err

    shutil.rmtree(folder / "categories" / "dark")
    with pytest.warns(UserWarning, match="has categories whose own results are gone: dark"):
        read_runs([folder])
    train("elsewhere", *both, "skip_done=true")
    assert "Its own results of dark are gone: kdad evaluate ckpt_path=outputs/both" in capsys.readouterr().out


def test_the_folder_of_a_unified_run_is_kept_and_replaced_as_any(train, command, two, tmp_path, capsys):
    both = [*TINY, f"dataset.root={two}", "hydra.run.dir=run", "model=stpm", "category=[dark,light]", "unified=true"]
    folder = train("run", *both[-3:])
    assert command(*both) == 2 and "holds complete results of this very configuration" in capsys.readouterr().err
    first = read_scores(folder / "categories" / "dark")
    # Going on from its last checkpoint, a longer training goes beside it.
    assert command(f"ckpt_path={folder}/checkpoints/last.ckpt") == 0 and "Done already" in capsys.readouterr().out
    assert command(f"ckpt_path={folder}/checkpoints/last.ckpt", "trainer.max_epochs=2") == 0
    whole = train("whole", *both[-3:], "trainer.max_epochs=2")
    for name in ("dark", "light"):
        resumed = read_scores(tmp_path / "run_2" / "categories" / name)
        assert resumed == read_scores(whole / "categories" / name) != first
    assert results(tmp_path / "run_2")["config_hash"] == results(whole)["config_hash"]
    # Another union in its place leaves nothing of the old one.
    assert command(*both[:-2], "category=[dark]", "unified=true", "overwrite=true") == 0
    assert [place.name for place in (folder / "categories").iterdir()] == ["dark"]
    # What kdad did not write stays.
    foreign = tmp_path / "mine" / "categories" / "dark" / "scores.csv"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    assert command(*both, "hydra.run.dir=mine") == 2 and "was not written by kdad" in capsys.readouterr().err
    assert foreign.read_text() == "mine"


def test_variants_and_epochs_are_averaged_in_each_category(train):
    folder = train(
        "run", "model=stpm", "category=all", "unified=true", "trainer.max_epochs=2", "average_epochs=2",
        "monitor=null", "+variants.small={model.map_size: 16}",
    )  # fmt: skip
    for place in (folder, folder / "variants" / "small"):
        each = [results(place / "categories" / name) for name in ("dark", "light")]
        assert all(found["average_epochs"] == 2 and "image_auroc_std" in found for found in each)
        assert results(place)["pixel_auroc"] == pytest.approx(fmean(found["pixel_auroc"] for found in each))
        assert "pixel_auroc_std" not in results(place)
    runs = read_runs([folder])
    assert sorted(zip(runs["category"], runs["variant"], strict=True)) == [
        ("dark", ""), ("dark", "small"), ("light", ""), ("light", "small")
    ]  # fmt: skip


def test_several_categories_without_unified_run_one_after_the_other(train, command, two, capsys):
    folder = train("run", "model=stpm", "category=[light,dark]")
    assert {name: results(folder / name)["category"] for name in ("dark", "light")} == {
        "dark": "dark",
        "light": "light",
    }
    assert not (folder / "results.json").exists()
    alone = compose(two, "category=light")
    assert results(folder / "light")["config_hash"] == config_hash(resolve(alone))
    assert command(f"ckpt_path={folder}/light/checkpoints/last.ckpt", "category=[light,dark]") == 2
    assert "ckpt_path with category=[light,dark]: a checkpoint is of one category" in capsys.readouterr().err


def test_what_cannot_be_one_is_refused(command, two, tmp_path, capsys):
    for category, said in (
        (["category=[dark,dark]"], "each once"), (["category=[dark,nope]"], "no category nope"),
        ([], "unified=true: of which categories?"), (["category=[]"], "give one name"),
    ):  # fmt: skip
        assert command("model=stpm", *TINY, f"dataset.root={two}", "unified=true", "hydra.run.dir=x", *category) == 2
        assert said in capsys.readouterr().err
        assert results(tmp_path / "x")["status"] == "failed"


def test_one_union_has_one_hash(two):
    hashes = set()
    for category in ("all", "[light,dark]", "[dark,light]"):
        cfg = compose(two, f"category={category}", "unified=true")
        unite(cfg)
        assert list(cfg.category) == ["dark", "light"]
        hashes.add(config_hash(resolve(cfg)))
    assert len(hashes) == 1
    assert list_categories(compose(two, "category=[light,dark]")) == ["light", "dark"]
    # The switch changes nothing of what was there before it.
    plain = resolve(compose(two, "category=dark"))
    assert config_hash({key: value for key, value in plain.items() if key != "unified"}) == config_hash(plain)


def make(root, category, **options):
    given = {"image_size": 32, "batch_size": 4, "name": "mvtec", "root": root} | options
    return MVTec(category=category, **given)


def test_the_union_holds_every_image_of_its_categories(two):
    parts = [make(two, name, val_fraction=0.25, calibration_fraction=0.2) for name in ("dark", "light")]
    union, alone = Union(parts), [make(two, p.category, val_fraction=0.25, calibration_fraction=0.2) for p in parts]
    union.setup()
    for one in alone:
        one.setup()
    for part in ("train", "val", "calibration", "test"):
        samples = [sample for one in alone for sample in getattr(one, f"{part}_samples")]
        assert getattr(union, f"{part}_samples") == samples
        images = [one.pools[part == "test"].images[one.splits[part].rows] for one in alone]
        split = union.splits[part]
        assert (split.pool.images[split.rows].numpy() == np.concatenate(images)).all()
    assert union.find_normals(1000)[0] == "calibration" and union.facts["n_test"] == 16
    for part, one in zip(union.divide_test(), alone, strict=True):
        for found, expected in zip(part.test_dataloader(), one.test_dataloader(), strict=True):
            assert found.keys() == expected.keys()
            assert all((found[key] == expected[key]).all() for key in ("image", "mask", "label", "index"))
    seen = [index for batch in union.train_dataloader() for index in batch["index"].tolist()]
    assert sorted(seen) == list(range(len(union.train_samples))) and seen != sorted(seen)


def test_categories_that_share_an_image_have_no_union(two):
    with pytest.raises(UserError, match="is an image of category dark and of dark"):
        Union([make(two, "dark"), make(two, "dark")]).check()


def test_a_data_set_whose_other_category_has_no_masks(two):
    union = Union([make(two, "dark"), make(two, "light", masks=None)])
    union.setup()
    masked = ["mask" in next(iter(part.test_dataloader())) for part in union.divide_test()]
    assert masked == [True, False]


def test_what_the_mean_says_where_categories_differ():
    a = {"pro": 0.5, "weights": "w", "mode": "exact", "n": 3, "image_auroc": 0.25, "image_auroc_std": 0.1}
    b = {"pro": None, "pro_reason": "no masks", "weights": "w", "mode": "streaming", "n": 4, "image_auroc": 0.75,
         "image_auroc_error": 0.01}  # fmt: skip
    assert average_categories({"a": a, "b": b}) == {
        "pro": None, "pro_reason": "b: no masks", "weights": "w", "image_auroc": 0.5, "image_auroc_error": 0.005,
    }  # fmt: skip
    assert average_categories({"a": b, "b": b})["pro_reason"] == "no masks"
    assert average_categories({"a": a}) == {key: value for key, value in a.items() if key != "image_auroc_std"}
