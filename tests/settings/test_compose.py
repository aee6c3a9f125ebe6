"""The configuration: every combination composes, in the stated precedence, and unknown keys are refused."""

import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from kdad import cache, evaluate
from kdad.check import check_data_set
from kdad.engine.help import describe_command
from kdad.errors import UserError
from kdad.run import main
from kdad.settings.checks import check_configuration, refuse_empty_groups
from kdad.settings.compose import CONF, list_choices
from kdad.settings.compose import compose as kdad_compose
from kdad.settings.create import create

pytestmark = pytest.mark.slow  # two hundred compositions

ROOT = Path(__file__).parents[2]
MODELS, DATASETS, BACKBONES = list_choices("model"), list_choices("dataset"), list_choices("backbone")


def compose(*overrides):
    return kdad_compose(*overrides)


def combine(model, dataset, backbone, *overrides):
    return compose(f"model={model}", f"dataset={dataset}", f"backbone={backbone}", "category=one", *overrides)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_with_every_data_set_composes_by_itself(model, dataset):
    cfg = compose(f"model={model}", f"dataset={dataset}", "category=one")
    check_configuration(cfg, "run")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert (cfg.model.name, cfg.dataset.name) == (model, dataset)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", MODELS)
def test_every_combination_composes_and_yields_to_the_command_line(model, dataset):
    """Every model with every data set, the backbones in turn."""
    backbone = BACKBONES[(MODELS.index(model) + DATASETS.index(dataset)) % len(BACKBONES)]
    changed = combine(
        model, dataset, backbone,
        "image_size=96", "batch_size=3", "seed=7", "levels=[1,2]", "normalisation=none", "val_fraction=0.5",
        "trainer.max_epochs=5", "trainer.precision=bf16-mixed", "backbone.weights=a.pth",
        "dataset.root=there", "dataset.split_seed=3", "optimizer.lr=0.25", "logger=none",
    )  # fmt: skip
    check_configuration(changed, "run")
    OmegaConf.to_container(changed, resolve=True, throw_on_missing=True)
    assert (changed.model.name, changed.dataset.name) == (model, dataset)
    assert changed.backbone.name == OmegaConf.load(CONF / "backbone" / f"{backbone}.yaml").name
    assert (changed.image_size, changed.batch_size, changed.seed, list(changed.levels)) == (96, 3, 7, [1, 2])
    assert (changed.dataset.image_size, changed.dataset.batch_size, changed.dataset.seed) == (96, 3, 7)
    assert (changed.normalisation, changed.val_fraction, changed.dataset.val_fraction) == ("none", 0.5, 0.5)
    assert (changed.trainer.max_epochs, changed.trainer.precision) == (5, "bf16-mixed")
    assert changed.backbone.weights == "a.pth"
    assert (changed.dataset.root, changed.dataset.split_seed, changed.optimizer.lr) == ("there", 3, 0.25)
    assert not changed.logger


LAYERS = ("dataset", "backbone", "trainer", "logger", "model", "recipe", "experiment")


@pytest.mark.parametrize("winner", range(len(LAYERS) + 1))
def test_precedence(tmp_path, winner):
    """Each layer from the lowest up to `winner` sets the seed; the highest of them is heard."""
    files = {
        "dataset": "dataset/probe.yaml", "backbone": "backbone/probe.yaml", "trainer": "trainer/probe.yaml",
        "logger": "logger/probe.yaml", "model": "model/probe.yaml", "recipe": "recipe/probe_probe.yaml",
        "experiment": "experiment/probe/table.yaml",
    }  # fmt: skip
    for number, layer in enumerate(LAYERS, 1):
        path = tmp_path / files[layer]
        path.parent.mkdir(parents=True)
        body = {"model": {"name": "probe"}} if layer == "model" else {}
        body |= {layer: {"name": "probe"}} if layer in ("dataset", "backbone") else {}
        body |= {"seed": number} if number <= winner else {}
        path.write_text("# @package _global_\n" + yaml.safe_dump(body))
    overrides = [f"{layer}=probe" for layer in ("dataset", "backbone", "trainer", "logger", "model")]
    overrides += ["+experiment=probe/table", *(["seed=99"] if winner == len(LAYERS) else [])]
    cfg = kdad_compose(*[*overrides, f"hydra.searchpath=[file://{tmp_path}]"])
    assert cfg.seed == (99 if winner == len(LAYERS) else winner)


def test_a_model_chooses_its_backbone_and_the_command_line_overrules_it(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "probe.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /backbone: vgg16\nmodel:\n  name: probe\n"
    )
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        path = f"hydra.searchpath=[file://{tmp_path}]"
        assert hydra.compose("run", ["model=probe", path]).backbone.name == "vgg16.tv_in1k"
        assert hydra.compose("run", ["model=probe", "backbone=resnet18", path]).backbone.name == "resnet18.tv_in1k"


@pytest.mark.parametrize(
    ("home", "folder"), [(None, "~/.cache/kdad"), ("", "~/.cache/kdad"), ("/elsewhere", "/elsewhere/kdad")]
)
def test_caches_lie_in_the_users_cache_folder(monkeypatch, capsys, home, folder):
    """Of the runs, of the demo photographs, and of `kdad cache`; an empty variable counts as none."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", home)
    cfg = compose("dataset=demo")
    assert (cfg.cache.folder, cfg.dataset.root) == (folder, f"{folder}/demo-v1")
    with pytest.raises(SystemExit):
        cache.main(["--help"])
    assert f"(default {folder})" in " ".join(capsys.readouterr().out.split())


def test_help_lists_the_keys_of_a_group_that_is_chosen():
    said = describe_command(main, "run", ["dataset=folder", "dataset.shots=3", "model=stpm"])
    rows = {line.split("=")[0].strip(): line.partition("=")[2].strip() for line in said.splitlines()}
    assert rows["dataset.anomalous"].startswith("anomalous") and rows["model.loss"].startswith("half_squared")
    assert rows["dataset.masks"].startswith("null") and "where masks lie" in rows["dataset.masks"]
    assert not [key for key in rows if key.startswith(("dataset.category", "dataset.official", "model._target_"))]
    assert "dataset=folder --help" in describe_command(main, "run")


def test_help_of_a_check_or_test_lists_no_keys_of_training():
    """They take the configuration of a training; the keys are those that do something there."""
    checking, testing = (describe_command(job, "run") for job in (check_data_set, evaluate.job))
    rows = [[line.split("=")[0].strip() for line in said.splitlines() if "=  " in line] for said in (checking, testing)]
    assert rows[0] == ["dataset", "category", "image_size"]
    assert {"dataset", "backbone", "metrics", "corruption", "average_epochs", "ckpt_path"} <= set(rows[1])
    assert not {"model", "optimizer", "seed", "monitor", "decision", "plan", "variants"} & set(rows[1])
    assert "optimizer.lr" not in checking + testing and "optimizer.lr" in describe_command(main, "run")


def test_the_demo_recipe_is_for_the_demo_only():
    assert compose("model=rd", "dataset=demo").image_size == 128
    assert compose("model=rd", "dataset=mvtec").image_size == 256


def test_debug_shrinks_and_yields():
    cfg = compose("model=rd", "dataset=mvtec", "+debug=cpu")
    assert (cfg.image_size, cfg.trainer.max_epochs, cfg.backbone.name) == (64, 1, "tf_efficientnet_lite0.in1k")
    assert compose("+debug=cpu", "backbone=resnet50", "image_size=96").backbone.name == "resnet50.tv_in1k"


@pytest.mark.parametrize("order", [("+debug=cpu", "+experiment=rd/table5"), ("+experiment=rd/table5", "+debug=cpu")])
def test_debug_overrules_an_experiment_in_either_order(order):
    cfg = compose(*order, "category=grid")
    assert (cfg.image_size, cfg.trainer.max_epochs, cfg.table.name) == (64, 1, "5")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", "trainer.max_epoch: no such key. Nearest: trainer.max_epochs"),
        ("image_sise=3", "image_sise: no such key. Nearest: image_size"),
        ("model.sigme=3", "model.sigme: no such key. Nearest: model.sigma"),
        ("model=rb", "model=rb: no such choice. Nearest: rd"),
        ("backbone=resnet81", "backbone=resnet81: no such choice. Nearest: resnet18"),
        ("modle=rd", "modle: no such key. Nearest: model"),
        ("+debug=cup", "debug=cup: no such choice. Nearest: cpu"),
        ("+experiment=rd/tabel5", "experiment/rd=tabel5: no such choice. Nearest: table5"),
        ("+experiment=table5", "experiment=table5: no such choice. Nearest: "),
        ("variants={a:{model.sigma:1}}", "Could not override 'variants'"),
        ("~trainer.max_epoch", "trainer.max_epoch: no such key. Nearest: trainer.max_epochs"),
    ],
)
def test_unknown_keys_of_the_command_line(override, message):
    with pytest.raises(UserError) as caught:
        compose(override)
    assert str(caught.value).startswith(f"{override}: {message}")


@pytest.mark.parametrize("argument", ["trainer=null", "model=", "logger=null"])
def test_a_group_without_a_choice_is_refused(argument):
    with pytest.raises(UserError, match=f"^{argument}: give one of "):
        refuse_empty_groups([argument], "run")


@pytest.mark.parametrize("group", ["experiment", "debug", "sweep"])
def test_a_group_that_is_empty_by_default_may_be_given_as_null(group):
    assert compose(f"{group}=null", "seed=3").seed == compose(f"+{group}=null", "seed=3").seed == 3


def test_null_for_a_key_is_none_of_that():
    refuse_empty_groups(["ckpt_path=null", "monitor=", "levels=[1]", "-m", "model=rd"], "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+image_sise=3", "image_sise: no such key. Nearest: image_size"),
        (
            "+trainer.max_epoch=3",
            "trainer.max_epoch: pytorch_lightning.Trainer takes no such argument. Nearest: max_epochs",
        ),
        ("+model.sigme=3", "model.sigme: kdad.models.rd.RD takes no such argument. Nearest: sigma"),
        ("+optimizer.beta=3", "optimizer.beta: torch.optim.Adam takes no such argument. Nearest: betas"),
        ("+dataset.rot=3", "dataset.rot: kdad.data.Demo takes no such argument. Nearest: root"),
        ("+backbone.weight=3", "backbone.weight: kdad.teacher.Teacher takes no such argument. Nearest: weights"),
        ("model._target_=kdad.models.rd.RR", "_target_: kdad.models.rd.RR cannot be imported"),
    ],
)
def test_unknown_keys_that_were_added(override, message):
    with pytest.raises(UserError, match=message.replace(".", "\\.")):
        check_configuration(compose("model=rd", "dataset=demo", override), "run")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=-1"], "seed=-1: give a whole number from 0"),
        (["seed=abc"], "seed=abc: give a whole number"),
        (["image_size=abc"], "image_size=abc: give a whole number of pixels"),
        (["image_size=null"], "image_size=null: give"),
        (["batch_size=2.5"], "batch_size=2.5: give"),
        (["pictures=-3"], "pictures=-3: give"),
        (["val_fraction=1"], "val_fraction=1: give"),
        (["category=[a,b,a]"], "category=\\['a', 'b', 'a'\\]: give one name; several, each once, as \\[a,b\\]"),
        (["category=[]"], "category=\\[\\]: give one name"),
        (["category=[a]", "unified=yes"], "unified=yes: give true or false"),
        (["levels=3"], "levels=3: give auto or a list"),
        (["max_categories=0"], "max_categories=0: give a whole number, at least 1, or null"),
        (["+variants.a=3"], "variants=.*: give <name>: {<key>: <value>, ...}"),
        (["optimizer=null"], "optimizer=null: give"),
        (["+model.image_size=32"], "model.image_size: kdad sets this argument"),
        (["+backbone.levels=[1]"], "backbone.levels: kdad sets this argument"),
        (["+trainer.default_root_dir=x"], "trainer.default_root_dir: kdad sets this argument"),
    ],
)
def test_values_that_could_only_fail_later(overrides, message):
    with pytest.raises(UserError, match=message):
        check_configuration(compose(*overrides), "run")


def test_a_librarys_refusal_is_a_message():
    with pytest.raises(UserError, match="torch.optim.Adam refuses its arguments"):
        create(compose("optimizer.lr=abc", "optimizer._partial_=false").optimizer, params=[])


# The three ways to start it ----------------------------------------------------------------------------------


def kdad(command, cwd):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "KDAD_DATA")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


SHOW = ["model=rd", "dataset=mvtec", "category=screw", "--cfg", "job"]


@pytest.mark.parametrize("command", [[sys.executable, "-m", "kdad.run"], [str(Path(sys.executable).parent / "kdad")]])
def test_from_any_folder(tmp_path, command):
    result = kdad([*command, *SHOW], tmp_path)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["category"] == "screw"


def test_from_a_wheel(tmp_path):
    """Built, unpacked outside the checkout, and started there, with the checkout's own dependencies."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(tmp_path / "site"),
            str(wheel),
        ],
        check=True,
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import kdad.run, kdad.settings.compose as c; print(c.CONF, file=sys.stderr); kdad.run.main()"
    result = kdad([sys.executable, "-c", code, *SHOW], tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "site" / "kdad" / "conf") in result.stderr
    assert yaml.safe_load(result.stdout)["model"]["name"] == "rd"
