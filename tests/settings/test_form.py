"""`form=`: one word for every value in which the authors' released code differs; and where it stands."""

import json

import numpy as np
import pandas as pd
import pytest

import kdad
from kdad.engine.checkpoint import Checkpoint
from kdad.errors import UserError
from kdad.settings.checks import check_configuration
from kdad.settings.compose import compose, resolve
from kdad.settings.roles import config_hash, flatten
from tests.inference.trained import train

RELEASED = {  # by hand, from the authors' repositories, on MVTec AD
    "rd": {"model.loss": "flattened", "model.bottleneck": "concat_oce"},
    "stpm": {"model.loss": "squared", "model.map_size": 64, "monitor": "val_map"},
    "mkd": {
        "model.norm": "batch", "model.weight": 2, "model.score_levels": [2, 3, 4], "model.saliency_levels": [2, 3, 4],
        "model.saliency": "guided", "model.gradient_through_teacher": True, "model.scaling": "per_image",
    },
}  # fmt: skip


def differ(*overrides):
    paper, other = (flatten(resolve(compose(*overrides, f"form={form}"))) for form in ("paper", "released"))
    plain = {key: value for key, value in other.items() if not isinstance(value, dict)}
    return {key: value for key, value in plain.items() if value != paper.get(key) and key != "form"}


@pytest.mark.parametrize("model", RELEASED)
def test_released_sets_what_the_code_does_otherwise_and_nothing_else(model):
    assert differ(f"model={model}", "dataset=mvtec", "category=grid") == RELEASED[model]


def test_paper_is_the_default():
    assert resolve(compose("model=mkd")) == resolve(compose("model=mkd", "form=paper"))


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
def test_mkds_lambda_is_its_codes_for_the_data_set(dataset):
    assert differ("model=mkd", f"dataset={dataset}")["model.weight"] == 100


def test_the_command_line_and_a_recipe_still_have_the_last_word():
    assert compose("model=rd", "form=released", "model.loss=per_position").model.loss == "per_position"
    assert compose("model=mkd", "form=released", "dataset=mnist").trainer.max_epochs == 52


def test_the_word_is_a_name_and_the_values_are_what_counts():
    spelled = compose("model=rd", "model.loss=flattened", "model.bottleneck=concat_oce")
    assert config_hash(resolve(spelled)) == config_hash(resolve(compose("model=rd", "form=released")))


@pytest.mark.parametrize(("overrides", "told"), [
    (["model=dskd", "form=released"], "form=released: there is one of mkd, rd, stpm, not of dskd. Give form=paper"),
    (["model=rd", "form=printed"], "form=printed: no such choice"),
])  # fmt: skip
def test_what_was_never_released_is_refused(overrides, told):
    with pytest.raises(UserError, match=told):
        check_configuration(compose(*overrides), "run")


@pytest.mark.training
def test_stpms_epoch_is_the_one_with_the_lowest_mean_map(tmp_path):
    trained = train("stpm", tmp_path, "form=released", "trainer.max_epochs=4", "val_fraction=0.5", "logger=csv")
    results = json.loads((trained.folder / "results.json").read_text())
    assert results["form"] == "released" and results["status"] == "ok"
    parts = Checkpoint.load(trained.checkpoint).parts
    detector = kdad.load(trained.folder, weights=str(trained.weights))
    maps = [detector(trained.pictures / name).map for name in parts["validation"]]
    assert results["val_map"] == pytest.approx(float(np.mean(maps)), rel=1e-5)
    logged = pd.read_csv(next(trained.folder.rglob("metrics.csv")))["val_map"].dropna()
    assert len(logged) == 4 and results["val_map"] == pytest.approx(logged.min())
