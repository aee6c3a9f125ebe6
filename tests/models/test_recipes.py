"""Every value of a paper's recipe, typed from the paper, so that no refactor changes one unseen."""

from functools import cache

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from kdad.models.base import IMAGENET
from kdad.settings.compose import CONF, list_choices
from kdad.settings.compose import compose as compose_anew
from kdad.settings.create import create

compose = cache(compose_anew)  # nothing here changes what it composes

# model -> key -> value. The source is the paper's section on implementation; see conf/model/<model>.yaml.
RECIPES = {
    "rd": {  # Deng and Li 2022, Sec. 3.3 and 4.1
        "backbone.name": "wide_resnet50_2.tv_in1k",
        "optimizer._target_": "torch.optim.Adam",
        "optimizer.lr": 0.005,
        "optimizer.betas": [0.5, 0.999],
        "trainer.max_epochs": 200,
        "batch_size": 16,
        "image_size": 256,
        "model.loss": "per_position",
        "model.bottleneck": "mff_oce",
        "model.sigma": 4.0,
        "model.image_score": "max",
        "model.score_levels": None,
        "levels": "auto",
        "normalisation": "auto",
        "val_fraction": 0.0,
        "monitor": None,
        "average_epochs": 1,
    },
    "stpm": {  # Wang et al. 2021, Sec. 4.2; momentum and weight decay from the released code
        "backbone.name": "resnet18.tv_in1k",
        "optimizer._target_": "torch.optim.SGD",
        "optimizer.lr": 0.4,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 0.0001,
        "trainer.max_epochs": 100,
        "batch_size": 32,
        "image_size": 256,
        "model.map_size": None,
        "model.score_levels": None,
        "levels": "auto",
        "normalisation": "auto",
        "val_fraction": 0.2,
        "monitor": "val_loss",
        "average_epochs": 1,
    },
    "mkd": {  # Salehi et al. 2021, Sec. 3.2, 4.1 and 4.2; epochs from the released code
        "backbone.name": "vgg16.tv_in1k",
        "optimizer._target_": "torch.optim.Adam",
        "optimizer.lr": 0.001,
        "trainer.max_epochs": 602,
        "batch_size": 64,
        "image_size": 128,
        "model.cloner": "compact",
        "model.norm": "none",
        "model.loss": "total",
        "model.weight": "initial",
        "model.critical_points": None,
        "model.score_levels": None,
        "model.saliency_levels": None,
        "model.saliency": "gradient",
        "model.gradient_through_teacher": False,
        "model.scaling": "none",
        "model.sigma": 4.0,
        "normalisation": "none",
        "levels": "auto",
        "val_fraction": 0.0,
        "monitor": None,
        "average_epochs": 10,  # Sec. 4
    },
    "dskd": {  # Yao, Sec. 3 and 4.1.2; batch size, last epoch: as RD
        "backbone.name": "resnet18.tv_in1k",
        "optimizer._target_": "torch.optim.Adam",
        "optimizer.lr": 0.001,
        "optimizer.betas": [0.5, 0.999],
        "trainer.max_epochs": 200,
        "batch_size": 16,
        "image_size": 256,
        "model.structure": "ds",
        "model.dfe": True,
        "model.dfe_blocks": 2,  # Table 6
        "model.align_corners": True,  # RD's code
        "model.zero_init_last": False,
        "model.detach_embedding": True,
        "model.euclidean_weight": 0.1,
        "model.score_levels": None,
        "model.sigma": 4.0,
        "normalisation": "auto",
        "levels": "auto",
        "val_fraction": 0.0,
        "monitor": None,
        "average_epochs": 1,
    },
}


def test_every_model_has_its_recipe_here():
    assert set(RECIPES) == set(list_choices("model"))


@pytest.mark.parametrize(("model", "key"), [(m, k) for m, recipe in RECIPES.items() for k in recipe])
def test_recipe_value(model, key):
    cfg = compose(f"model={model}", "dataset=mvtec", "category=screw")
    value = OmegaConf.select(cfg, key)
    assert (OmegaConf.to_container(value) if OmegaConf.is_config(value) else value) == RECIPES[model][key]


OPTIMISERS = {
    "mkd": (torch.optim.Adam, {"lr": 0.001, "betas": (0.9, 0.999), "weight_decay": 0, "amsgrad": False}),
    "dskd": (torch.optim.Adam, {"lr": 0.001, "betas": (0.5, 0.999), "weight_decay": 0, "amsgrad": False}),
    "rd": (torch.optim.Adam, {"lr": 0.005, "betas": (0.5, 0.999), "weight_decay": 0, "amsgrad": False}),
    "stpm": (torch.optim.SGD, {"lr": 0.4, "momentum": 0.9, "weight_decay": 0.0001, "dampening": 0, "nesterov": False}),
}


@pytest.mark.parametrize("model", RECIPES)
def test_the_values_arrive_in_the_optimiser(model):
    cfg = compose(f"model={model}")
    optimizer = create(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    kind, values = OPTIMISERS[model]
    assert type(optimizer) is kind
    assert {key: optimizer.defaults[key] for key in values} == values


# What a paper, or its released code, does differently on one data set; all other values are those above.
ON_DATA_SETS = {
    "dskd_mtd": {"image_size": 128},  # Sec. 4.1.2
    "rd_mnist": {  # Sec. 4.2: the sum; the rest from the released code
        "model.image_score": "sum", "image_size": 32, "backbone.name": "resnet18.tv_in1k", "normalisation": "none",
    },
    "rd_fashion_mnist": {
        "model.image_score": "sum", "image_size": 32, "backbone.name": "resnet18.tv_in1k", "normalisation": "none",
    },
    "rd_cifar10": {"model.image_score": "sum", "image_size": 32, "backbone.name": "resnet18.tv_in1k"},
    "rd_caltech256": {"model.image_score": "sum"},  # Sec. 4.2; the released code does not have the set
    "mkd_mnist": {"image_size": 32, "trainer.max_epochs": 52},  # released code
    "mkd_fashion_mnist": {"image_size": 32, "trainer.max_epochs": 52},
    "mkd_cifar10": {"image_size": 224, "normalisation": "auto", "trainer.max_epochs": 202},  # Sec. 4.2.1; released code
    "mkd_brain_mri": {"image_size": 256},  # Sec. 4.1
}  # fmt: skip


def test_every_recipe_of_a_paper_is_here():
    assert {path.stem for path in (CONF / "recipe").glob("*.yaml")} == {*ON_DATA_SETS, "rd_demo"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_DATA_SETS)
def test_what_a_paper_does_differently_on_one_data_set(name):
    model, _, dataset = name.partition("_")
    cfg = compose(f"model={model}", f"dataset={dataset}")
    for key, expected in (RECIPES[model] | ON_DATA_SETS[name]).items():
        value = OmegaConf.select(cfg, key)
        assert (OmegaConf.to_container(value) if OmegaConf.is_config(value) else value) == expected, key


@pytest.mark.slow
def test_a_recipes_teacher_yields_to_the_command_line():
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for chosen in list_choices("backbone"):
            cfg = hydra.compose("run", ["model=rd", "dataset=mnist", f"backbone={chosen}"])
            alone = OmegaConf.load(CONF / "backbone" / f"{chosen}.yaml")
            assert {key: cfg.backbone[key] for key in alone if key != "defaults"} == {
                key: value for key, value in alone.items() if key != "defaults"
            }
        assert hydra.compose("run", ["model=rd", "dataset=mnist", "default_backbone=vgg16"]).backbone.name == "vgg16"


@pytest.mark.slow
def test_imagenets_statistics_are_the_teachers_own(random_resnet18):
    """So that `auto` is what MKD and RD do on CIFAR-10."""
    for name in ("vgg16.tv_in1k", "resnet18.tv_in1k"):
        teacher = random_resnet18.func(name=name, pretrained=False, levels=[1], auto=None, image_size=32)
        assert (teacher.mean, teacher.std) == IMAGENET
