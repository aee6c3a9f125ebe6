"""category=all: one job, every category, each with results of its own."""

import json
import shutil

import pytest

from kdad.errors import UserError
from kdad.evaluate import main as evaluate
from kdad.run import list_categories
from kdad.settings.compose import compose as kdad_compose
from kdad.settings.compose import resolve
from kdad.settings.roles import config_hash

TINY = [
    "model=stpm", "dataset=mvtec", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false", "image_size=64", "batch_size=4",
    "trainer.max_epochs=1", "trainer.accelerator=cpu", "optimizer.lr=0.05", "pictures=0", "logger=none",
]  # fmt: skip


def compose(*overrides):
    return kdad_compose(*[*TINY, *overrides])


@pytest.fixture(scope="module")
def two(tiny_mvtec, tmp_path_factory):
    """A category without test images, and a good one after it."""
    root = tmp_path_factory.mktemp("two")
    shutil.copytree(tiny_mvtec / "tile", root / "tile")
    shutil.copytree(tiny_mvtec / "tile" / "train", root / "empty" / "train")
    return root


def results(path):
    return json.loads((path / "results.json").read_text())


def test_categories_that_are_not_there_are_named(two, caplog):
    assert list_categories(compose(f"dataset.root={two}", "category=all")) == ["empty", "tile"]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"data set mvtec: 14 of its 15 categories are not in {two}: bottle, cable, ")


def test_each_category_has_its_own_results(command, two, tmp_path, capsys):
    all_of_them = [*TINY, f"dataset.root={two}", "category=all"]
    assert command(*all_of_them, "hydra.run.dir=outputs/first") == 2
    folder = tmp_path / "outputs" / "first"
    found = {name: results(folder / name) for name in ("empty", "tile")}
    assert {name: r["status"] for name, r in found.items()} == {"empty": "failed", "tile": "ok"}
    assert {name: r["category"] for name, r in found.items()} == {name: name for name in found}
    assert "no test images" in found["empty"]["error"] and not (folder / "results.json").exists()
    said = capsys.readouterr().err
    assert "1 of 2 categories failed:\n- empty: data set mvtec, category empty: no test images" in said
    # It is the very job that names the category.
    alone = compose(f"dataset.root={two}", "category=tile")
    assert found["tile"]["config_hash"] == config_hash(resolve(alone)) != found["empty"]["config_hash"]

    assert command(*all_of_them, "skip_done=true", "hydra.run.dir=outputs/second") == 2
    assert capsys.readouterr().out.count("Done already") == 1
    assert [p.parent.name for p in (tmp_path / "outputs" / "second").rglob("results.json")] == ["empty"]

    # A checkpoint knows its category, though the command line did not name it.
    checkpoint = f"ckpt_path={folder}/tile/checkpoints/tested.ckpt"
    assert command(checkpoint, "model.map_size=16", main=evaluate) == 0
    (again,) = folder.glob("tile/evaluations/*/results.json")
    assert results(again.parent)["category"] == "tile"
    assert command(checkpoint, "category=all") == 2
    assert "a checkpoint is of one category" in capsys.readouterr().err
    assert command(checkpoint, "category=empty", main=evaluate) == 2
    assert "no category empty" in capsys.readouterr().err  # where the checkpoint's data lie


def test_what_all_stands_for(two, tmp_path):
    assert list_categories(compose(f"dataset.root={two}", "category=all")) == ["empty", "tile"]
    assert list_categories(compose(f"dataset.root={two}", "category=all", "max_categories=1")) == ["empty"]
    assert list_categories(compose(f"dataset.root={two}", "category=tile")) == []
    assert list_categories(compose(f"dataset.root={two}")) == []
    (tmp_path / "MT_Free" / "Imgs").mkdir(parents=True)
    assert list_categories(compose("dataset=mtd", f"dataset.root={tmp_path}", "category=all")) == []
    with pytest.raises(UserError, match="a checkpoint is of one category"):
        list_categories(compose(f"dataset.root={two}", "category=all", "ckpt_path=some.ckpt"))


def test_a_missing_data_set_is_recorded(command, tmp_path):
    assert command(*TINY, "dataset.root=nowhere", "category=all", "hydra.run.dir=run") == 2
    assert results(tmp_path / "run")["status"] == "failed" and "nowhere" in results(tmp_path / "run")["error"]
