"""Trained weights tested again without training: by `kdad.evaluate`, and by the variants of a run."""

import copy
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.seed import isolate_rng

from kdad.data.base import AnomalyDataModule
from kdad.engine.build import build, build_detector, describe_versions, make_trainer
from kdad.engine.checkpoint import Checkpoint
from kdad.engine.decide import decide, find_decision
from kdad.engine.early import refuse_training
from kdad.engine.extra import create_extra, try_out
from kdad.engine.features import attach_features
from kdad.engine.launch import CONFIG, carry_on
from kdad.engine.protocols import watch_protocols
from kdad.engine.record import Record, describe
from kdad.engine.run_folder import RunFolder
from kdad.engine.show import show
from kdad.engine.test import Evaluation
from kdad.engine.unified import test_all
from kdad.errors import UserError
from kdad.inference.decision import read_setting
from kdad.settings.checks import check_configuration, list_scoring_keys
from kdad.settings.compose import resolve, suggest_nearest
from kdad.settings.roles import config_hash

log = logging.getLogger(__name__)


def retest(cfg: DictConfig, folder: RunFolder, data: AnomalyDataModule | None = None) -> dict[str, Any]:
    """Test the checkpoint at `ckpt_path` and write its results into a folder; return what results.json holds.

    With `average_epochs` above 1 the epochs before it are tested, too, whose weights must then lie beside it.
    `data`: of the run that made the checkpoint, decoded and with its teacher's features.
    """
    with folder.hold(), folder.record(cfg) as record:
        check_configuration(cfg, CONFIG)
        test_again(cfg, folder, record, Checkpoint.load(cfg.ckpt_path), data)
    return record.results


def test_again(
    cfg: DictConfig, folder: RunFolder, record: Record, checkpoint: Checkpoint, data: AnomalyDataModule | None = None
) -> None:
    """Do as `retest` does, once the configuration is in order: add to the record what results.json will hold."""
    record.add(**describe(cfg), versions=describe_versions())
    folder.refuse_to_replace(cfg.overwrite, record.results["config_hash"])
    counted, extra = watch_protocols(cfg), create_extra(cfg)
    if others := refuse_training(cfg, checkpoint):
        record.add(config_hash=None, trained_on=checkpoint.describe_data())
    if checkpoint.has_teacher:
        cfg = copy.deepcopy(cfg)
        cfg.backbone.pretrained = False  # its weights come with the checkpoint
    earlier = checkpoint.earlier_epochs(cfg.average_epochs)
    known = data is not None
    with checkpoint.explain_root():
        data, detector = (data, build_detector(cfg)) if data is not None else build(cfg, False, checkpoint.rule)
    try_out(cfg, data)
    record.add(data_fingerprint=data.fingerprint)
    if not others and not known and checkpoint.has_other_data(data):
        log.warning(
            "the data are not those that %s was trained on: images have been added, removed or replaced since",
            checkpoint.path,
        )
    if tested := data.find_seen(checkpoint.seen):
        said = f"{len(tested)} test images have the names of images trained on; the first is {tested[0]}"
        if data.root.resolve() == Path(checkpoint.config["dataset"]["root"]).resolve():
            raise UserError(f"{said}. Their scores would mean nothing: test images that it has not seen")
        log.warning(said)
        record.add(n_trained_on=len(tested))
    checkpoint.restore(detector)
    detector.provenance = checkpoint.provenance
    setting = read_setting(resolve(cfg)["model"], detector.scoring)
    evaluation = Evaluation(cfg.pictures, cfg.metrics, setting, extra)
    trainer = make_trainer(cfg, folder, data, None, evaluation, *counted)
    if not known:
        attach_features(detector, data.pools, data.store, trainer.strategy.root_device)
    elif find_decision(detector, setting) is None:  # the normal images are at hand, for thresholds of its own
        detector.trainer = trainer
        decision = decide(trainer, detector.to(trainer.strategy.root_device), cfg.decision, setting, data)
        detector.provenance = {**checkpoint.provenance, "decision": decision.to_plain()}
    folder.claim(cfg, record, keep_checkpoints=True)
    record.add(ckpt_path=str(checkpoint.path), tested_epoch=checkpoint.tested_epoch)
    record.add(**test_all(cfg, record.results, trainer, detector, data, evaluation, folder, earlier, counted))
    if parts := checkpoint.parts:  # the data may have grown since
        record.add(n_train=len(parts["train"]), n_val=len(parts["validation"]))


def list_variants(cfg: DictConfig, folder: RunFolder) -> dict[str, DictConfig]:
    """Return each variant's configuration, by the variant's name: a further test of the weights trained in `folder`.

    Raises `UserError` where one changes what needs training.
    """
    found, scoring = {}, list_scoring_keys(cfg)
    for name, changes in cfg.variants.items():
        if not str(name).replace("_", "").replace("-", "").isalnum():
            raise UserError(f"variants.{name}: a variant is a folder: name it by letters, digits, _ and -")
        merged = copy.deepcopy(cfg)
        merged.variants, merged.ckpt_path = {}, str(folder.checkpoint("tested").absolute())
        for key, value in changes.items():
            if key not in scoring:
                raise UserError(
                    f"variants.{name}: {key} is not among the keys that may change without training: "
                    f"{', '.join(scoring)}. {suggest_nearest(key, scoring)}. To train with it, sweep it: -m {key}=..."
                )
            OmegaConf.update(merged, key, value, merge=False, force_add=True)
        found[str(name)] = merged
    return found


def check_variants(cfg: DictConfig, folder: RunFolder) -> None:
    """Refuse variants that need training, or have a value that the detector refuses. Raises `UserError`."""
    for name, variant in list_variants(cfg, folder).items():
        with isolate_rng():
            try:
                build_detector(variant)
            except UserError as error:
                raise UserError(f"variants.{name}: {error}") from error


def test_variants(cfg: DictConfig, folder: RunFolder, data: AnomalyDataModule | None = None) -> None:
    """Test the weights trained in `folder` by every variant, into a subfolder each.

    With skip_done only by those that have no results yet. Raises `UserError` at the end if some failed.
    """
    failures: list[str] = []
    for name, variant in list_variants(cfg, folder).items():
        place = folder.variant(name)
        if cfg.skip_done and place.is_complete(config_hash(resolve(variant))):
            continue
        with carry_on(failures, f"variant {name}"):
            show(retest(variant, place, data), place)
    if failures:
        raise UserError(f"{len(failures)} of {len(cfg.variants)} variants failed:\n" + "\n".join(failures))
