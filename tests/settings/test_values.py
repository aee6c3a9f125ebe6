"""Types and ranges: whatever is put into a key that cannot be in it is refused, all of it in one message, at once."""

import copy
import math
from functools import cache
from typing import get_args

import pytest
from lightning_fabric.plugins.precision.precision import _PRECISION_INPUT
from omegaconf import OmegaConf

from kdad.data.augmentation import AUGMENTATIONS
from kdad.data.folder import SPLITS
from kdad.data.intensity import read_rule
from kdad.data.masks import MASK_KINDS
from kdad.data.real_iad import RESOLUTIONS, VIEWS
from kdad.engine.combinations import list_impossible
from kdad.engine.fit import MONITORS
from kdad.engine.record import HEADLINE
from kdad.engine.search import TRAINING
from kdad.errors import UserError
from kdad.export.__main__ import WHOLE
from kdad.export.formats import FORMATS
from kdad.export.writing import PRECISIONS
from kdad.inference.decision import RULES
from kdad.metrics.detection import MODES
from kdad.models import dskd, mkd, rd, stpm
from kdad.networks.cloner import NORMS, SIZES
from kdad.predict.folder import MAPS, OVERLAYS
from kdad.settings import checks
from kdad.settings.arguments import ARGUMENTS, find_argument
from kdad.settings.checks import list_bad_keys, list_idle_keys, refuse_all
from kdad.settings.compose import compose as compose_anew
from kdad.settings.compose import list_choices
from kdad.settings.keys import BY_NAME
from kdad.settings.roles import flatten
from kdad.settings.targets import list_parameters
from kdad.storage.cache import STORAGES
from tests.processes import run_module

compose = cache(compose_anew)  # nothing here changes what it composes
# No key of any kind holds one of these
WRONG = ({"a": {"b": 1}}, [{"a": 1}], [[]], math.nan, -math.inf)
# By the type of the value that the configuration has
WRONG_BY_TYPE = {
    bool: ("yes", "true", "", 1, 2.0),
    int: ("abc", "", "1", True, [1]),
    float: ("abc", "", "0.5", True, [0.5]),
    str: ("", " ", True, 1.5, [1.5]),
}
# Keys that hold more than one type: these of the above are right
RIGHT = {
    "trainer.devices": ("abc", "1", [1]),
    "trainer.deterministic": (True,),
    "model.weight": (1.5,),
    "logger.name": ("", " "),
    "logger.version": ("", " "),
    "logger.project": ("", " "),
}
FREE = "dataset.official."  # the names of categories lie below it: it is checked as a whole


@pytest.fixture(autouse=True)
def read_files_once(monkeypatch):
    monkeypatch.setattr(checks, "list_top_level_keys", cache(checks.list_top_level_keys))


def change(cfg, values):
    """The configuration with other values of these keys, whatever their types."""
    changed = copy.deepcopy(cfg)
    OmegaConf.set_struct(changed, False)
    for key, value in values.items():
        group, _, last = key.rpartition(".")
        (OmegaConf.select(changed, group) if group else changed)[last] = value
    return changed


def list_leaves(cfg):
    """Every key with its value but those that say whose arguments the others are."""
    values = flatten(OmegaConf.to_container(cfg, resolve=True))
    left_out = (FREE, "dataset.archive.")
    return {
        key: value
        for key, value in values.items()
        if not (isinstance(value, dict) and value) and not key.startswith(left_out) and not key.endswith("._target_")
    }


COMBINED = [
    *((f"model={model}", "dataset=demo") for model in list_choices("model")),
    *(("model=rd", f"dataset={dataset}") for dataset in ("btad", "mvtec_loco", "folder", "elpv", "caltech256")),
    *(("model=rd", f"dataset={dataset}") for dataset in ("head_ct", "mtd", "stc", "visa", "real_iad", "cifar10")),
    ("model=stpm", "dataset=demo", "scheduler=cosine", "logger=wandb"),
    ("model=stpm", "dataset=demo", "scheduler=step", "logger=tensorboard"),
]


@pytest.mark.parametrize("overrides", COMBINED, ids=" ".join)
def test_every_key_refuses_five_wrong_values(overrides):
    """Each of the five in all keys at once, all of which are named: a key without a type is not, and fails here."""
    cfg = compose(*overrides, "category=one")
    assert list_bad_keys(cfg, "run") == {}
    leaves = list_leaves(cfg)
    assert len(leaves) > 70
    for wrong in WRONG:
        hidden = {"variants", "table"} if isinstance(wrong, dict) else set()  # of which a name is free
        assert leaves.keys() - list_bad_keys(change(cfg, dict.fromkeys(leaves, wrong)), "run").keys() == hidden, wrong


@pytest.mark.parametrize("overrides", [*COMBINED[:7], *COMBINED[-2:]], ids=" ".join)
def test_every_key_refuses_five_values_of_another_type(overrides):
    cfg = compose(*overrides, "category=one")
    leaves = {key: value for key, value in list_leaves(cfg).items() if type(value) in WRONG_BY_TYPE}
    assert len(leaves) > 40
    for n in range(5):
        wrong = {key: WRONG_BY_TYPE[type(value)][n] for key, value in leaves.items()}
        right = {
            key for key in wrong if any(type(wrong[key]) is type(v) and wrong[key] == v for v in RIGHT.get(key, ()))
        }
        bad = list_bad_keys(change(cfg, wrong), "run")
        assert wrong.keys() - bad.keys() == right & wrong.keys(), wrong


@pytest.mark.parametrize("command", ["app", "benchmark", "calibrate", "export", "predict", "pretrain"])
def test_the_other_commands_keys_have_types_too(command):
    cfg = compose(config_name=command)
    assert list_bad_keys(cfg, command) == {}
    leaves = list_leaves(cfg)
    for wrong in WRONG:
        bad = list_bad_keys(change(cfg, dict.fromkeys(leaves, wrong)), command)
        assert leaves.keys() - bad.keys() <= {"dataset.train.train", "dataset.test.train"}  # torchvision's own


BAD = {
    "model.sigma": "abc", "trainer.max_epochs": -3, "batch_size": 0, "seed": 1.5, "image_size": [0, 256],
    "val_fraction": 2, "decision.rule": "foo", "cache.storage": "ram", "pictures": -1, "average_epochs": 0,
    "dataset.shots": 0, "optimizer.lr": -1, "decision.k": math.inf, "dataset.train_fraction": 0, "levels": [],
    "dataset.contamination": 1, "dataset.augment": "flip", "dataset.intensity": "window:9,1", "dataset.page": -1,
    "calibration_fraction": 1, "metrics.mode": "fast", "metrics.pro_limits": [0], "metrics.memory_gb": 0, "severity": 4,
    "corruption": "fog", "threads": 0, "category": ["a", "a"], "normalisation": "imagnet", "monitor": "image_auroc",
    "objective": "f1", "trainer.precision": "8", "trainer.devices": 0, "trainer.limit_test_batches": 1.5,
    "optimizer.betas": [0.9, 1.0], "model.bottleneck": "moe", "backbone.weight_keys": "any", "skip_done": "yes",
    "checkpoint_seconds": -1, "max_categories": 0, "patience": 0, "dataset.download": "please",
    "trainer.accumulate_grad_batches": 0, "trainer.check_val_every_n_epoch": 0, "trainer.detect_anomaly": 5,
    "trainer.min_epochs": -5, "trainer.max_steps": 0, "trainer.fast_dev_run": True, "trainer.sync_batchnorm": 7,
    "tiling.size": 1, "model.score_levels": [2, 2],
}  # fmt: skip
GOOD = {
    "model.sigma": (0, 4), "trainer.max_epochs": (-1, 0, None), "image_size": ([128, 256],), "val_fraction": (0,),
    "levels": ([1, 2], ["layer1.2", "layer2"], [1, "layer2"]), "trainer.precision": ("16-mixed", 32, "64", None),
    "trainer.devices": (2, -1, "auto", [0, 1], "0,1"), "trainer.limit_test_batches": (3, 0.5, None, 1.0),
    "trainer.gradient_clip_val": (0, 1), "trainer.strategy": ("ddp", {"_target_": "mine.Strategy"}),
    "trainer.accumulate_grad_batches": (4,), "trainer.max_steps": (-1, 100), "trainer.benchmark": (True, None),
    "trainer.deterministic": (True, False), "model.score_levels": ([1], [2, 3]), "category": ("01", 1, ["a", "b"], None),
    "dataset.shots": (1, None), "dataset.max_megapixels": (0.5, None), "cache.memory_gb": (0, math.inf),
    "checkpoint_seconds": (0, 0.5, math.inf), "speed": ("off", False), "metrics.pro_limits": ([], [0.3, 0.05]),
    "protocol": ("rd_code", ["rd_code", "mkd_code"]), "optimizer.lr": (0, 1), "dataset.intensity": ("percentile:0,99.5",),
    "variants": ({"a": {"model.sigma": 1}},), "logger": ({}, None), "ckpt_path": ("x.ckpt", None), "patience": (1,),
}  # fmt: skip


def test_one_message_names_all_that_is_wrong():
    bad = list_bad_keys(change(compose("model=rd", "dataset=demo"), BAD), "run")
    assert bad.keys() == BAD.keys()  # dataset.image_size and the like, which repeat a key, are not named again
    with pytest.raises(UserError) as refused:
        refuse_all(list(bad.values()))
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{len(BAD)} settings cannot be used:" and len(lines) == len(BAD) + 1
    assert "- model.sigma=abc: give a number of pixels, at least 0" in lines
    assert "- batch_size=0: give a whole number, at least 1" in lines


@pytest.mark.parametrize("key", GOOD)
def test_what_is_right_stays_right(key):
    cfg = compose("model=rd", "dataset=demo")
    for value in GOOD[key]:
        assert list_bad_keys(change(cfg, {key: value}), "run") == {}, value


def test_a_class_that_is_not_kdads_says_itself_what_it_takes():
    own = {"model._target_": "mine.Detector", "model.loss": "cosine", "model.sigma": [1, 2], "model.other": None}
    assert list_bad_keys(change(compose("model=rd", "dataset=demo"), own), "run") == {}


def test_values_of_variants_are_checked_as_the_keys_are():
    cfg = change(
        compose("model=rd", "dataset=demo"), {"variants": {"a": {"model.sigma": "abc", "model.image_score": "max"}}}
    )
    assert list(list_bad_keys(cfg, "run")) == ["variants.a.model.sigma"]


def test_a_long_or_odd_value_is_shown_so_that_it_can_be_read():
    assert checks.describe_value("16") == "'16'" and checks.describe_value("") == "''"
    assert checks.describe_value(None) == "null" and checks.describe_value(True) == "true"
    assert len(checks.describe_value(list(range(1000)))) == checks.LONGEST + 3


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("kdad.models.rd.RD loss", rd.LOSSES), ("kdad.models.rd.RD bottleneck", rd.BOTTLENECKS),
        ("kdad.models.rd.RD image_score", rd.SCORES), ("kdad.models.stpm.STPM loss", stpm.LOSSES),
        ("kdad.models.mkd.MKD loss", mkd.LOSSES), ("kdad.models.mkd.MKD saliency", mkd.SALIENCIES),
        ("kdad.models.mkd.MKD scaling", mkd.SCALINGS), ("kdad.models.mkd.MKD norm", NORMS),
        ("kdad.models.mkd.MKD cloner", SIZES), ("kdad.models.dskd.DSKD structure", dskd.STRUCTURES),
        ("kdad.data.MVTec mask_kind", MASK_KINDS), ("kdad.data.Folder mask_kind", MASK_KINDS),
        ("kdad.data.Folder split_by", SPLITS), ("kdad.data.RealIAD views", ("all", *VIEWS)),
        ("kdad.data.RealIAD resolution", RESOLUTIONS), ("dataset.augment", AUGMENTATIONS), ("monitor", MONITORS),
        ("objective", (*TRAINING, *HEADLINE, None)), ("decision.rule", RULES), ("metrics.mode", MODES),
        ("cache.storage", STORAGES), ("overlays", OVERLAYS), ("maps", MAPS), ("precision", PRECISIONS), ("format", (WHOLE, *FORMATS)),
        ("trainer.precision", [value for kind in get_args(_PRECISION_INPUT) for value in get_args(kind)]),
    ],
)  # fmt: skip
def test_the_table_knows_every_choice_of_the_code(name, known):
    target, _, argument = name.rpartition(" ")
    values = find_argument(target, argument) if target else BY_NAME[name].values
    assert values and all(map(values.fit, known))


@pytest.mark.parametrize("target", [target for target in ARGUMENTS if target.startswith("kdad.") and target[-1] != "."])
def test_the_table_has_no_argument_that_a_class_does_not_take(target):
    assert set(ARGUMENTS[target]) <= set(list_parameters(target))


@pytest.mark.parametrize("text", ["auto", "window:0,4095", "window:1e3, 2e3", "percentile:0,100", "window:5,5",
                                  "percentile:-1,50", "window:a,b", "percentile:1", "range:1,2"])  # fmt: skip
def test_the_table_takes_the_intensities_that_the_data_take(text):
    try:
        taken = bool(read_rule(text, 0))
    except UserError:
        taken = False
    assert BY_NAME["dataset.intensity"].values.fit(text) is taken


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=mkd", "monitor=val_loss", "val_fraction=0.2"], ["monitor=val_loss tests one epoch's weights"]),
        (["model=rd", "patience=3"], ["patience=3 needs validation images"]),
        (["model=rd", "patience=3", "dataset=mvtec_ad2"], []),  # which has validation images
        (["model=rd", "monitor=val_map", "val_fraction=0.1"], []),
        (["model=rd", "average_epochs=2", "trainer.max_epochs=-1"], ["average_epochs=2 needs to know"]),
        (["model=rd", "average_epochs=2", "trainer.max_epochs=null"], ["average_epochs=2 needs to know"]),
        (["model=rd", "unified=true", "category=null"], ["unified=true: of which categories?"]),
        (["model=rd", "objective=pro", "protocol=nobodys"], ["objective=pro is measured on test", "protocol=nobodys"]),
        (["model=rd", "dataset.shots=2", "dataset.train_fraction=0.5"], ["dataset.shots=2 with dataset.train_fraction"]),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_known_without_data(overrides, said):
    found = list_impossible(compose("dataset=demo", *overrides))
    assert len(found) == len(said) and all(text.startswith(start) for text, start in zip(found, said, strict=True))


def test_a_key_that_is_bad_by_itself_is_not_asked_what_it_goes_with():
    cfg = change(compose("model=rd", "dataset=demo"), {"average_epochs": "many", "monitor": 3, "dataset.shots": "a"})
    assert list_impossible(cfg, list_bad_keys(cfg, "run")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "given", "said"),
    [
        ("kdad.run", ["dataset=mvtec", "dataset.root=/nowhere", "model.sigma=abc", "seed=1.5", "patience=2"],
         ["3 settings cannot be used:", "- model.sigma=abc: give", "- seed=1.5: give", "- patience=2 needs validation"]),
        ("kdad.run", ["-m", "batch_size=0,-1", "dataset.root=/nowhere", "trainer.max_epochs=x"],
         ["batch_size=-1: give", "trainer.max_epochs=x: give", "2 of the sweep's jobs failed"]),
        ("kdad.predict", ["batch_size=0", "maps=png", "strict=maybe"],
         ["3 settings cannot be used:", "- batch_size=0", "- maps=png: give one of none, npy", "- strict=maybe"]),
    ],
)  # fmt: skip
def test_the_command_line_ends_with_one_message(tmp_path, module, given, said):
    done = run_module(module, given, tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(text in done.stderr for text in said), done.stderr


@pytest.mark.parametrize("chosen", [[], ["category=screw"], ["dataset=mnist", "category=0"], ["category=[a,b]"]])
def test_any_category_is_a_tag_of_weights_and_biases(chosen):
    """The logger makes a text of it, and leaves null out."""
    assert not checks.list_bad_keys(compose("logger=wandb", *chosen), "run")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["decision.rule=mean_std", "decision.false_alarms=0.05"],
         "decision.false_alarms=0.05 does nothing with decision.rule=mean_std: leave it out, or give "
         "decision.rule=quantile"),
        (["decision.k=2"], "decision.k=2 does nothing with decision.rule=quantile: leave it out, or give "
         "decision.rule=mean_std"),
        (["severity=2"], "severity=2 does nothing with corruption=none: leave it out, or give corruption=one of "
         "brightness, contrast, blur, noise, jpeg, shift, rotate, scale"),
        (["category=grid", "max_categories=2"], "max_categories=2 does nothing with category=grid: leave it out, or give "
         "category=all"),
        (["objective_on_test_data=true"], "objective_on_test_data=true does nothing with objective=null: leave it out, "
         "or give objective=one of loss, val_loss, image_auroc, pixel_auroc, pro"),
    ],
)  # fmt: skip
def test_a_key_that_does_nothing_beside_another_is_refused(typed, said):
    assert list_idle_keys(compose("model=rd", *typed), typed, alone=True) == [said]


def test_a_key_that_does_nothing_in_some_jobs_of_a_sweep_is_taken():
    swept = ["corruption=none,blur", "severity=1,3"]
    cfg = compose("model=rd", "corruption=none", "severity=3")
    assert list_idle_keys(cfg, swept, alone=False) == []
    assert len(list_idle_keys(cfg, swept[1:], alone=False)) == 1
    assert list_idle_keys(compose("model=rd", "~decision.k"), ["~decision.k"], alone=True) == []  # said to be missing
    meant = ["corruption=blur", "severity=3"]
    assert list_idle_keys(compose("model=rd", *meant), meant, alone=True) == []
