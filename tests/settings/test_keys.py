"""One meaning per key: which keys make another job, and which leave a finished one standing."""

import copy
import json
from collections import Counter
from functools import cache

import pytest
import yaml
from omegaconf import OmegaConf

from kdad.settings.compose import CONF, list_choices, list_groups, resolve
from kdad.settings.compose import compose as compose_anew
from kdad.settings.keys import KEYS, Role, find_key
from kdad.settings.roles import config_hash, find_differences, flatten, may_retest, select

compose = cache(compose_anew)  # nothing here changes what it composes
MODELS, DATASETS = list_choices("model"), list_choices("dataset")
GROUPS = list_groups("run")
BASE = ("model=rd", "dataset=mvtec", "category=grid")


def hashed(*overrides):
    """The hash of a configuration, composed anew only where a group is chosen: that takes Hydra a tenth of a second."""
    values = [override.partition("=")[::2] for override in overrides]
    if any(key in GROUPS or key[0] in "+~" for key, _ in values):
        return config_hash(resolve(compose(*BASE, *overrides)))
    cfg = copy.deepcopy(compose(*BASE))
    for key, value in values:
        OmegaConf.update(cfg, key, yaml.safe_load(value), merge=False)
    return config_hash(resolve(cfg))


@pytest.fixture(scope="module")
def plain():
    return hashed()


def leaves(cfg):
    return [key for key, value in flatten(OmegaConf.to_container(cfg)).items() if not isinstance(value, dict)]


def has_one_role(key):
    """By the rule that the table states: the longest entry that the key begins with; there is one, and it is alone."""
    around = [entry for entry in KEYS if key == entry.name or key.startswith(f"{entry.name}.")]
    longest = max(len(entry.name) for entry in around)
    (entry,) = (entry for entry in around if len(entry.name) == longest)
    return find_key(key) is entry and isinstance(entry.role, Role)


def test_no_key_has_two_entries():
    assert [name for name, n in Counter(key.name for key in KEYS).items() if n > 1] == []


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_key_of_every_data_set_has_one_role(dataset):
    keys = leaves(compose("model=rd", f"dataset={dataset}"))
    assert len(keys) > 50 and all(has_one_role(key) for key in keys)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_key_of_every_model_and_data_set_has_one_role(model):
    for dataset in DATASETS:
        keys = leaves(compose(f"model={model}", f"dataset={dataset}"))
        assert len(keys) > 50 and all(has_one_role(key) for key in keys)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice", [*(f"experiment={name}" for name in list_choices("experiment")), "sweep=optuna", "debug=cpu"]
)
def test_every_key_of_every_experiment_and_search_has_one_role(choice):
    assert all(has_one_role(key) for key in leaves(compose(choice)))


@pytest.mark.parametrize("entry", ["benchmark", "pretrain"])
def test_every_key_of_the_other_commands_has_one_role(entry):
    assert all(has_one_role(key) for key in leaves(compose(config_name=entry)))


def test_a_key_of_nobody_is_an_error_and_one_of_a_plug_in_has_its_groups_role():
    assert find_key("model.brand_new").role is Role.METHOD and find_key("dataset.brand_new").role is Role.CONDITION
    assert (
        find_key("trainer.brand_new").role is Role.CONDITION
        and find_key("dataset.official.grid.train").role is Role.DISPLAY
    )
    with pytest.raises(KeyError, match="nobodys"):
        find_key("nobodys.key")


@pytest.mark.parametrize(
    "same",
    [
        "dataset.root=/elsewhere", "+trainer.enable_progress_bar=false", "trainer.log_every_n_steps=5",
        "dataset.download=true", "metrics.memory_gb=8", "trainer.accelerator=cpu", "cache.storage=off",
        "cache.folder=/tmp/x", "compile=true", "speed=off", "checkpoint_seconds=0", "pictures=3", "+table.name=x",
        "+variants.a={model.sigma:1}", "max_categories=3", "skip_done=true", "logger=none", "objective=loss",
        "trainer.deterministic=false", "+trainer.profiler=simple", "dataset.obtain=x", "dataset.official={}",
        "ckpt_path=x.ckpt", "backbone.weight_keys=in_order",
    ],
)  # fmt: skip
def test_what_leaves_a_finished_run_standing(plain, same):
    assert hashed(same) == plain


@pytest.mark.parametrize(
    "other",
    [
        "model.sigma=1", "model.loss=flattened", "category=tile", "seed=1", "trainer.max_epochs=3", "optimizer.lr=0.1",
        "levels=[1,2]", "normalisation=none", "image_size=128", "batch_size=8", "val_fraction=0.1", "average_epochs=2",
        "backbone=resnet18", "backbone.weights=x.pth", "backbone.pretrained=false", "trainer.precision=bf16-mixed",
        "trainer.devices=2", "trainer.limit_train_batches=4", "trainer.limit_test_batches=4", "metrics.mode=streaming",
        "dataset.train_fraction=0.5", "dataset.split_seed=1", "dataset.augment=rotate_scale", "+dataset.masks=elsewhere",
        "+trainer.accumulate_grad_batches=2", "dataset.name=mine",
    ],
)  # fmt: skip
def test_what_makes_another_job(plain, other):
    assert hashed(other) != plain


def test_a_key_that_means_nothing_beside_another_ones_value_makes_no_other_job(plain):
    assert hashed("corruption=none", "severity=3") == plain
    assert hashed("decision.k=4") == hashed("decision.rule=quantile", "decision.k=5") == plain
    blurred, mean = "corruption=blur", "decision.rule=mean_std"
    assert len({plain, hashed(blurred), hashed(blurred, "severity=2"), hashed(mean), hashed(mean, "decision.k=4")}) == 5
    assert hashed(mean, "decision.false_alarms=0.05") == hashed(mean)


def test_every_key_in_a_deciding_role_changes_the_hash_and_no_other_does():
    """Whatever the key, its value changed to something that it never is."""
    config = resolve(compose(*BASE))
    for key in leaves(compose(*BASE)):
        changed = node = copy.deepcopy(config)
        *groups, last = key.split(".")
        for group in groups:
            node = node[group]
        node[last] = "changed"
        about = find_key(key)
        idle = about.needs and OmegaConf.select(compose(*BASE), about.needs[0]) not in about.needs[1]
        decides = about.role in (Role.METHOD, Role.CONDITION, Role.IDENTITY) and not idle
        assert (config_hash(changed) != config_hash(config)) == decides, key
        assert (key in find_differences(config, changed)) == decides, key


# Values that keys may hold, one of which differs from a key's own
TRIED = [True, False, 1, 2, 0.5, "off", "none", "paper", "released", "by_name", "in_order", "loss", "elsewhere",
         ["a"], [0.5], ["rd_code"], {"a": {"seed": 1}}, {"url": "x"}, {"grid": {"train": 1}}]  # fmt: skip


def list_told():
    """The keys of `kdad run` that do not decide results, of which the reference says what another value is."""
    roles = (Role.PLACE, Role.SPEED, Role.DISPLAY)
    known = leaves(compose(*BASE))
    return [key for key in KEYS if key.role in roles and key.values and not key.supplied and key.name in known]


@pytest.mark.parametrize("key", list_told(), ids=lambda key: key.name)
def test_another_value_is_what_the_reference_says(key, plain):
    """Composed anew, since a key may set others: what is said to be the same is the same job."""
    now = OmegaConf.select(compose(*BASE), key.name)
    value = next(value for value in TRIED if key.values.fit(value) and value != now)
    given = f"{key.name}={json.dumps(value)}".replace('"', "")
    changed = config_hash(resolve(compose(*BASE, given if key.name in GROUPS else f"++{given}")))
    assert changed == plain or (key.effect and not key.effect.startswith("the same"))


def test_only_seed_and_category_are_said_to_be_a_repetition():
    alone = {key.name for key in KEYS if key.role is Role.IDENTITY and not key.copy and not key.effect}
    assert alone == {"seed", "category"}


def test_reports_leave_out_what_is_said_twice():
    found = select(resolve(compose(*BASE)), [Role.CONDITION, Role.METHOD], copies=False)
    assert "image_size" in found and "dataset.image_size" not in found and "seed" not in found


def test_what_a_trained_detector_may_be_tested_with():
    scoring = ["model.sigma"]
    for key in ("model.sigma", "dataset.root", "batch_size", "trainer.precision", "average_epochs", "cache.storage"):
        assert may_retest(key, scoring), key
    for key in ("model.loss", "image_size", "seed", "category", "trainer.max_epochs", "dataset.split_seed", "levels"):
        assert not may_retest(key, scoring), key


def test_every_top_level_key_of_the_files_is_said_in_help():
    for entry in ("run", "benchmark"):
        for key in OmegaConf.load(CONF / f"{entry}.yaml"):
            if key not in ("defaults", "hydra"):
                assert find_key(str(key)).meaning, key
