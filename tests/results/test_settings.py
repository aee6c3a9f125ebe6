"""Runs find their printed setting by what they hold, in the project's own experiment files."""

import pytest
from omegaconf import OmegaConf

from kdad import published
from kdad.errors import UserError
from kdad.results import settings
from kdad.results.read import read_runs
from kdad.results.settings import Recipe, assign_runs, describe_runs, select_compared, shorten_form
from kdad.results.statistics import PUBLISHED_AS
from kdad.settings.compose import CONF
from kdad.settings.compose import compose as kdad_compose

EXPERIMENTS = [
    (path.parent.name, path.stem, OmegaConf.to_container(OmegaConf.load(path)).get("table"))
    for path in sorted((CONF / "experiment").glob("*/*.yaml"))
]
TABLES = [(paper, name, about) for paper, name, about in EXPERIMENTS if about]


def placed(tmp_path, paper, table):
    cells = published.load_table(paper, table)
    return assign_runs(paper, cells[cells["own"]], read_runs([tmp_path]))


def test_a_report_compares_what_decides_figures_and_nothing_else():
    for model in ("rd", "mkd", "stpm", "dskd"):
        config = set(settings.compose_compared(f"model={model}", "dataset=mvtec"))
        assert {
            "model._target_",
            "optimizer.lr",
            "image_size",
            "trainer.max_epochs",
            "levels",
            "metrics.mode",
        } <= config
        shown = {"seed", "category", "model.name", "dataset.name", "dataset.root", "dataset.image_size", "pictures"}
        assert not config & {
            *shown,
            "trainer.accelerator",
            "metrics.memory_gb",
            "default_backbone",
            "backbone._partial_",
        }


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "name", "about"), TABLES, ids=[f"{p}/{n}" for p, n, _ in TABLES])
def test_a_run_of_an_experiment_has_its_place(paper, name, about):
    """Each setting's configuration, from Hydra, is that setting and nothing else."""
    table = str(about["name"])
    cells = published.load_table(paper, table)
    cells = cells[cells["own"]]
    composed = kdad_compose(*[f"+experiment={paper}/{name}"])
    dataset = cells["dataset"].iloc[0]
    assert PUBLISHED_AS.get(composed.dataset.name, composed.dataset.name) == dataset
    recipe = settings.find_recipe(paper, table, dataset, whole=False)
    assert set(recipe.settings) == set(cells["setting"])
    for setting, values in recipe.settings.items():
        config = OmegaConf.create(OmegaConf.to_container(composed, resolve=True))
        for key, value in values.items():
            OmegaConf.update(config, key, value, merge=False)
        found = settings.place_run(recipe, select_compared(OmegaConf.to_container(config)))
        assert found == {"setting": setting, "printed": True, "conditions": ""}


def test_a_run_needs_no_experiment(write_run, tmp_path):
    write_run(changes={"model.bottleneck": "pre"})
    write_run(seed=1)
    found, remarks = placed(tmp_path, "rd", 5)
    assert found["setting"].tolist() == ["Pre", "Pre+OCE+MFM"] and found["printed"].all()
    assert found["conditions"].tolist() == ["", ""] and remarks == []


def test_conditions_are_named_and_methods_set_apart(write_run, tmp_path):
    write_run(changes={"trainer.max_epochs": 30, "image_size": 128})
    write_run(changes={"model.sigma": 0.0})
    write_run(changes={"model.bottleneck": "oce", "optimizer.lr": 0.1})
    write_run(changes={"normalisation": "none"})
    found, _ = placed(tmp_path, "rd", 5)
    assert found["conditions"].tolist() == ["image_size=128 (not 256), trainer.max_epochs=30 (not 200)", "", "", ""]
    assert found["setting"].tolist() == [
        "Pre+OCE+MFM", "Pre+OCE+MFM, model.sigma=0.0", "Pre+OCE, optimizer.lr=0.1", "Pre+OCE+MFM, normalisation=none"
    ]  # fmt: skip
    assert found["printed"].tolist() == [True, False, False, False]


def test_normalisation_goes_with_the_teacher(write_run, tmp_path):
    teacher = {"backbone.name": "tf_efficientnet_lite0.in1k", "backbone.weights": "package:x/y.pth"}
    write_run(model="mkd", changes={**teacher, "normalisation": "auto"})
    found, _ = placed(tmp_path, "mkd", 3)
    assert found["printed"].tolist() == [True]
    names = "normalisation=auto (not none), backbone.name=tf_efficientnet_lite0.in1k (not vgg16.tv_in1k)"
    assert found["conditions"].tolist() == [names]


def test_a_run_of_no_printed_setting_is_named_by_what_tells_settings_apart(write_run, tmp_path):
    write_run(changes={"image_size": 64, "dataset.image_size": 64})
    found, _ = placed(tmp_path, "rd", 1)
    assert found[["setting", "printed", "conditions"]].values.tolist() == [["image_size=64", False, ""]]


def test_other_weights_under_one_name_are_told_apart(write_run, tmp_path):
    write_run()
    write_run(seed=1, results={"weights_fingerprint": "beef"})
    write_run(None, seed=2)
    found, _ = placed(tmp_path, "rd", 5)
    assert found["conditions"].tolist() == [
        "weights_fingerprint=f00d", "weights_fingerprint=beef", "weights_fingerprint=f00d"
    ]  # fmt: skip


def test_the_most_specific_setting_wins():
    recipe = Recipe({"a": 1, "b": 1}, {"": {}, "both": {"a": 2, "b": 2}, "one": {"a": 2}})
    assert recipe.find_setting({"a": 1, "b": 2}) == ""
    assert recipe.find_setting({"a": 2, "b": 1}) == "one"
    assert recipe.find_setting({"a": 2, "b": 2}) == "both"


def test_a_key_that_is_newer_than_a_run_counts_as_its_default(write_run, tmp_path):
    folder = write_run()
    config = OmegaConf.load(folder / "config.yaml")
    del config.model.bottleneck, config.monitor
    OmegaConf.save(config, folder / "config.yaml")
    found, remarks = placed(tmp_path, "rd", 5)
    assert found[["setting", "conditions"]].values.tolist() == [["Pre+OCE+MFM", ""]]
    assert remarks == ["Not recorded by some of the runs, and taken as the defaults: model.bottleneck, monitor."]


def test_a_data_set_under_its_published_name(write_run, tmp_path):
    write_run(model="dskd", dataset="mvtec3d", category="bagel")
    found, remarks = placed(tmp_path, "dskd", 3)
    assert found[["dataset", "setting", "category"]].values.tolist() == [["mvtec_3d", "", "bagel"]] and not remarks


def test_runs_without_a_place_are_counted(write_run, tmp_path):
    write_run()
    write_run(model="stpm")
    write_run(dataset="mtd", category="all")
    (write_run(category="tile") / "config.yaml").unlink()
    found, remarks = placed(tmp_path, "rd", 5)
    assert len(found) == 1
    assert remarks[1] == "2 runs of other detectors or data sets have no place in this table."
    assert remarks[0].endswith("runs/3 cannot be told from other settings: it has no readable config.yaml.")
    _, remarks = placed(tmp_path, "rd", "text")
    assert remarks[0] == "2 runs on mvtec: no experiment file says which of the settings they are."


def test_an_experiment_that_does_not_compose_is_named(tmp_path, monkeypatch):
    (tmp_path / "experiment" / "rd").mkdir(parents=True)
    (tmp_path / "experiment" / "rd" / "mine.yaml").write_text("table: {paper: rd, name: '5', settings: {}}")
    monkeypatch.setattr(settings, "CONF", tmp_path)
    with pytest.raises(UserError, match="experiment=rd/mine"):
        settings.find_recipe("rd", "5", "mvtec", whole=False)


def test_categories_of_two_unions_are_two_settings(write_run):
    of = {"changes": {"unified": True, "dataset.category": ["grid", "screw"]}}
    write_run(0.9)
    write_run(0.8, **of)
    runs, _, _ = describe_runs(read_runs([write_run(0.7, category="screw", **of).parent]))
    assert list(runs["settings"]) == ["unified=false", "unified=true", "unified=true"]
    write_run(0.6, changes={"unified": True, "dataset.category": ["grid", "tile"]})
    runs, _, _ = describe_runs(read_runs([runs["folder"].iloc[0].parent]))
    assert [text.removeprefix("unified=true, dataset.category=") for text in runs["settings"][1:]] == [
        "[grid,screw]", "[grid,screw]", "[grid,tile]"
    ]  # fmt: skip
    assert runs["key"].nunique() == 3 and runs["settings"].iloc[0] == "unified=false"


def test_a_whole_form_is_told_by_its_name(write_run, tmp_path):
    """Of RD the loss and the bottleneck; a run with one of them alone is of no form."""
    released = {"model.loss": "flattened", "model.bottleneck": "concat_oce"}
    for changes in ({}, released, {"model.loss": "flattened"}):
        write_run(0.9, changes=changes)
    told = describe_runs(read_runs([tmp_path]))[0]["settings"].tolist()
    assert told == ["form=paper", "form=released", "model.loss=flattened, model.bottleneck=mff_oce"]
    assert shorten_form({"model.loss": "flattened"}, "rd", "mvtec") == {"model.loss": "flattened"}
    assert shorten_form({"model.loss": "flattened"}, "dskd", "mvtec") == {"model.loss": "flattened"}


def test_across_data_sets_a_detector_has_one_name(write_run, tmp_path):
    """Both values of a key on one data set, one of them on another: told on both where they count together."""
    write_run(0.9, model="stpm", changes={"model.map_size": 64})
    write_run(0.9, model="stpm")
    write_run(0.9, model="stpm", dataset="mtd", category="all")
    runs = read_runs([tmp_path])
    apart, together = (describe_runs(runs, across)[0].set_index("dataset")["settings"] for across in (False, True))
    assert apart["mtd"] == "" and together["mtd"] == "model.map_size=null" and together["mtd"] in set(together["mvtec"])
