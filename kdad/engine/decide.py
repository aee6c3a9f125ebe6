"""Thresholds after a fit, from normal images alone, and what a test says of them."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.seed import isolate_rng
from torch import distributed

from kdad.data.base import AnomalyDataModule
from kdad.engine.record import RATES
from kdad.errors import UserError
from kdad.inference.decision import Decision, Normals
from kdad.models.base import KDDetector

MOST = 1000  # training images that thresholds are taken from, where none are held out: more would flatter no less
UNDECIDED = "no thresholds: the checkpoint has none, or none for this setting of what changes scores without training"


@torch.no_grad()
def decide(
    trainer: pl.Trainer, detector: KDDetector, options: Mapping[str, Any], setting: dict[str, Any],
    data: AnomalyDataModule | None = None,
) -> Decision:  # fmt: skip
    """Take the thresholds of a trained detector from the normal images that its data hold for it.

    `options` are the configuration's `decision`; `data` are those of the fit unless given. Every process judges its
    share; all come to the same thresholds.
    """
    data = data or trainer.datamodule  # type: ignore[attr-defined]
    assert data is not None
    source, samples, loader = data.find_normals(MOST)
    found, training = Normals(), detector.training
    detector.eval()
    with isolate_rng(), torch.inference_mode(), trainer.precision_plugin.forward_context():
        for batch in detector.move_batches(loader):
            seen = detector.judge(batch)
            finite = seen.image_score.isfinite() & seen.anomaly_map.isfinite().all(dim=(1, 2, 3))
            if not finite.all():
                path = samples[batch["index"][~finite.to(batch["index"].device)][0].item()].path
                raise UserError(
                    f"The score of {path} is NaN or infinite: the detector has diverged. Lower optimizer.lr."
                )
            roi = batch["roi"].cpu().numpy() if "roi" in batch else None
            found.add(seen.image_score.double().cpu().numpy(), seen.anomaly_map.float().cpu().numpy(), roi)
    detector.train(training)
    parts: list[Any] = [found]
    if distributed.is_available() and distributed.is_initialized():
        parts = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, found)
    return found.merge(parts).decide(**options, source=source, setting=setting)


def find_decision(detector: KDDetector, setting: Mapping[str, Any]) -> Decision | None:
    """Return the thresholds that came with a detector's weights; None where there are none for this setting."""
    plain = detector.provenance.get("decision")
    decision = Decision.from_plain(plain) if plain else None
    return decision if decision and dict(decision.setting) == dict(setting) else None


class Counts:
    """Pixels above their threshold, counted image by image: hits, false alarms, and anomalous pixels in all."""

    def __init__(self) -> None:
        self.by_image: dict[int, tuple[int, int, int]] = {}

    def add(self, index: torch.Tensor, maps: torch.Tensor, masks: torch.Tensor, threshold: float) -> None:
        """Count a batch: index (B,), maps and masks (B, 1, H, W)."""
        above, anomalous = maps.float() > threshold, masks.bool()
        hits, alarms = (above & anomalous).sum(dim=(1, 2, 3)), (above & ~anomalous).sum(dim=(1, 2, 3))
        rows = zip(index.tolist(), hits.tolist(), alarms.tolist(), anomalous.sum(dim=(1, 2, 3)).tolist(), strict=True)
        self.by_image |= {i: (hit, alarm, all_) for i, hit, alarm, all_ in rows}

    def f1(self) -> float | None:
        """Return F1 over all pixels of all images, in [0, 1]; None where there is no anomalous one."""
        hits, alarms, anomalous = (sum(column) for column in zip(*self.by_image.values(), strict=True)) \
            if self.by_image else (0, 0, 0)  # fmt: skip
        return 2 * hits / (hits + alarms + anomalous) if anomalous else None


def rate(decision: Decision | None, scores: NDArray, labels: NDArray, counts: Counts) -> dict[str, Any]:
    """Return false-alarm rate, detection rate and F1 of the thresholds on test images.

    Null, with a reason, where there is none.
    """
    if decision is None:
        return dict.fromkeys(RATES) | {f"{name}_reason": UNDECIDED for name in RATES}
    called = scores > decision.image_threshold
    normal, anomalous = labels == 0, labels == 1
    hits, alarms = int((called & anomalous).sum()), int((called & normal).sum())
    found: dict[str, Any] = {
        "false_alarm_rate": alarms / int(normal.sum()) if normal.any() else None,
        "detection_rate": hits / int(anomalous.sum()) if anomalous.any() else None,
        "image_f1": 2 * hits / (hits + alarms + int(anomalous.sum())) if anomalous.any() else None,
        "pixel_f1": counts.f1(),
    }
    reasons = dict.fromkeys(RATES[:1], "no normal image in the test set")
    reasons |= dict.fromkeys(RATES[1:3], "no anomalous image in the test set")
    reasons["pixel_f1"] = "no anomalous pixel in the test set, or no masks"
    said = {f"{name}_reason": reasons[name] for name, value in found.items() if value is None}
    return found | said | {
        "decision_rule": decision.rule,
        "decision_source": decision.source,
        "decision_images": decision.n_images,
        "image_threshold": decision.image_threshold,
        "pixel_threshold": decision.pixel_threshold,
        "false_alarms_promised": decision.promise(),
    }  # fmt: skip
