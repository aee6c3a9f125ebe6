"""What each level of a trained MKD or STPM knows: `python experiments/four_detectors/levels.py <run>/checkpoints/tested.ckpt`.

MKD: the mean squares of the teacher's features (of the first test batch), and the image AUROC of each level's L_val and
L_dir. STPM: the image AUROC of each level's mean distance, and the mean score of each kind of image.
"""

import sys
from collections import defaultdict
from statistics import fmean

import torch
from omegaconf import OmegaConf

from kdad.engine.build import build
from kdad.engine.checkpoint import Checkpoint
from kdad.functional import cosine_distance
from kdad.metrics.ranking import auroc, rank_curve
from kdad.models.mkd import direction_losses, value_losses

checkpoint = Checkpoint.load(sys.argv[1]).content
data, detector = build(OmegaConf.create(checkpoint["kdad"]["config"]))
detector.load_state_dict(checkpoint["state_dict"], strict=False)
detector.eval()
data.setup()
found, labels, scores = defaultdict(list), [], defaultdict(list)
with torch.no_grad():
    for batch in data.test_dataloader():
        images = detector.normalise(batch["image"])
        teacher, labels = detector.teacher(images), [*labels, *batch["label"].tolist()]
        if hasattr(detector, "cloner"):
            if not found:
                print("mean squares:", ", ".join(f"{f.square().mean():.1f}" for f in teacher))
            student = detector.cloner(images)
            found["L_val"].append(value_losses(teacher, student))
            found["L_dir"].append(direction_losses(teacher, student))
        else:
            pairs = zip(teacher, detector.student(images), strict=True)
            found["mean distance"].append(torch.stack([cosine_distance(t, s).mean(dim=(1, 2)) for t, s in pairs]))
            for i, score in zip(batch["index"].tolist(), detector(batch["image"]).image_score.tolist(), strict=True):
                scores[data.test_samples[i].kind].append(score)
anomalous = torch.tensor(labels) == 1
for name, batches in found.items():
    rows = torch.cat(batches, dim=1).double().numpy()
    values = [auroc(rank_curve(row[~anomalous.numpy()], row[anomalous.numpy()], None)) for row in rows]
    print(f"image AUROC by {name} of levels 1, 2, ...:", ", ".join(f"{value:.3f}" for value in values))
for kind, values in scores.items():
    print(f"mean score of {kind}: {fmean(values):.3g}")
