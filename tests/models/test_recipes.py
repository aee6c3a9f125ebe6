"""Every value of a paper's recipe, typed from the paper, so that no refactor changes one unseen."""

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from kdad.cli import create
from kdad.configuration import CONF, choices

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
        "model.saliency": "gradient",
        "model.gradient_through_teacher": False,
        "model.scaling": "none",
        "model.sigma": 4.0,
        "normalisation": "none",
        "levels": "auto",
        "val_fraction": 0.0,
        "monitor": None,
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
        "model.dfe_blocks": 1,
        "model.detach_embedding": True,
        "model.euclidean_weight": 0.1,
        "model.score_levels": None,
        "model.sigma": 4.0,
        "normalisation": "auto",
        "levels": "auto",
        "val_fraction": 0.0,
        "monitor": None,
    },
}


def test_every_model_has_its_recipe_here():
    assert set(RECIPES) == set(choices("model"))


@pytest.mark.parametrize(("model", "key"), [(m, k) for m, recipe in RECIPES.items() for k in recipe])
def test_recipe_value(model, key):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("run", [f"model={model}", "dataset=mvtec", "category=screw"])
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
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("run", [f"model={model}"])
    optimizer = create(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    kind, values = OPTIMISERS[model]
    assert type(optimizer) is kind
    assert {key: optimizer.defaults[key] for key in values} == values


def test_what_a_paper_does_differently_on_one_data_set():
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert hydra.compose("run", ["model=dskd", "dataset=mtd"]).image_size == 128  # Sec. 4.1.2
        assert hydra.compose("run", ["model=dskd", "dataset=mvtec"]).image_size == 256
