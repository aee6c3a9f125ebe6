"""t-SNE of teacher and student features, as in STPM, Fig. 3.

STPM, Sec. 5.1, says that features on normal regions lie closer together than on anomalous regions; its figure shows the
vectors of every position of one defective test image, stars for the teacher and circles for the student. Here a
vector is one position of one level, divided by its l2 norm, which is what STPM (Eq. 1), RD and DSKD compare; vectors
come from several test images, half of them normal, or from one. A position is anomalous where its cell of the level's
grid holds a pixel of the mask, or, without masks, where its image is.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from kdad.data.base import AnomalyDataModule
from kdad.data.samples import Sample
from kdad.engine.build import list_data
from kdad.errors import UserError
from kdad.figures.network import rebuild_detector
from kdad.figures.style import ANOMALOUS, NORMAL, PAGE, use_style, wrap_text
from kdad.models.base import Batch, KDDetector
from kdad.results.series import find_file

SEED = 0
PERPLEXITY = 30  # scikit-learn's; less where there are few vectors


class Vectors(NamedTuple):
    """One level's features at the same N positions in both networks, as unit vectors."""

    level: str
    teacher: NDArray[np.float32]  # (N, C)
    student: NDArray[np.float32]  # (N, C)
    anomalous: NDArray[np.bool_]  # (N,)


def rebuild_run(run: pd.Series) -> tuple[AnomalyDataModule, KDDetector]:
    """Build a run's data and detector anew.

    Returns the data, listed but not decoded, and the detector with the weights that the run has tested, on the CPU.
    Raises `UserError` where its configuration, its checkpoint, its data or its teacher's weights are missing, and for
    a detector whose features cannot be compared.
    """
    data = list_data(cast(DictConfig, OmegaConf.load(find_file(run, "config_file"))))
    if data.tiling:
        raise UserError(
            f"{run['folder']} was trained on tiles: features of whole pictures are shown, which it never saw"
        )
    detector = rebuild_detector(run)
    if not hasattr(detector, "pairs"):
        raise UserError(f"model={detector.name} has no pairs(batch): teacher and student features to compare")
    return data, detector


def choose_samples(samples: list[Sample], images: str) -> list[Sample]:
    """Return the test images to show: as many as the number `images`, or the one whose path ends in `images`.

    Of a number half are normal, and they are spread evenly. Raises `UserError` for a number below 2, and where not
    exactly one path ends so.
    """
    if not images.isdigit():
        fits = [sample for sample in samples if sample.path.as_posix().endswith(images)]
        if len(fits) != 1:
            raise UserError(
                f"--images {images}: {len(fits)} test images have such a path; give a number or one path's end"
            )
        return fits
    if int(images) < 2:
        raise UserError(f"--images {images}: give at least 2, or the end of one image's path")
    chosen = []
    for label, count in ((0, int(images) // 2), (1, int(images) - int(images) // 2)):
        own = [sample for sample in samples if sample.label == label]
        rows = np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int)
        chosen += [own[row] for row in rows]
    return chosen


@torch.no_grad()
def collect_vectors(data: AnomalyDataModule, detector: KDDetector, samples: list[Sample], points: int) -> list[Vectors]:
    """Return teacher and student features at some positions of these images, level by level.

    At most `points` positions are normal and as many anomalous, drawn by a fixed seed.
    """
    compare = cast(Callable[[Batch], tuple[list[Tensor], list[Tensor]]], detector.pairs)
    levels: list[list[tuple[Tensor, Tensor, Tensor]]] = []
    for sample in samples:
        image = data.read_image(sample)[None].float().div(255)
        mask = torch.full((1, 1, *image.shape[2:]), float(sample.label))
        if data.has_masks and sample.label:
            mask = data.read_mask(sample)[0][None, None].float()
        for level, pair in enumerate(zip(*compare({"image": image}), strict=True)):
            teacher, student = (F.normalize(f.float(), dim=1)[0].flatten(1).T for f in pair)
            levels += [[]] if level == len(levels) else []
            cells = F.adaptive_max_pool2d(mask, pair[0].shape[2:]).flatten() > 0
            levels[level].append((teacher, student, cells))
    generator, chosen = np.random.default_rng(SEED), []
    for name, parts in zip(detector.teacher.paths, levels, strict=False):  # RD's pre embeds the last of its levels
        of_teacher, of_student, anomalous = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
        kept = []
        for kind in (False, True):
            kept.append(generator.permutation(np.flatnonzero(anomalous == kind))[:points])
        rows = np.concatenate(kept)
        chosen.append(Vectors(name, of_teacher[rows], of_student[rows], anomalous[rows]))
    return chosen


def embed_vectors(one: Vectors) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return 2-D coordinates of the teacher's and the student's vectors, (N, 2) each, by one t-SNE of both.

    Raises `UserError` without scikit-learn.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError("the figure tsne needs scikit-learn: pip install 'kdad[figures]'") from error
    both = np.concatenate((one.teacher, one.student))
    perplexity = min(PERPLEXITY, (len(both) - 1) / 3)
    flat = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED).fit_transform(both)
    return flat[: len(one.teacher)], flat[len(one.teacher) :]


@use_style()
def draw_tsne(levels: list[Vectors], title: str) -> Figure:
    """Draw one panel per level, a line from each teacher vector to the student's of the same position.

    Below a panel stands the mean distance, in [0, 2], between these two unit vectors: t-SNE keeps neighbours,
    not distances.
    """
    figure = Figure((PAGE, PAGE / max(3, len(levels)) + 1.0), layout="constrained")
    panels = figure.subplots(1, len(levels), squeeze=False)[0]
    for number, (panel, one) in enumerate(zip(panels, levels, strict=True), 1):
        teacher, student = embed_vectors(one)
        apart = np.linalg.norm(one.teacher - one.student, axis=1)
        said = []
        for kind, rows, colour in (("normal", ~one.anomalous, NORMAL), ("anomalous", one.anomalous, ANOMALOUS)):
            lines = list(np.stack((teacher[rows], student[rows]), axis=1))
            panel.add_collection(LineCollection(lines, colors=colour, linewidths=0.3, alpha=0.35, zorder=1))
            for network, flat, marker, size in (("teacher", teacher, "*", 16), ("student", student, "o", 7)):
                panel.scatter(
                    *flat[rows].T, s=size, c=colour, marker=marker, linewidths=0, alpha=0.75, label=f"{network}, {kind}"
                )
            if rows.any():
                said.append(f"{kind} {apart[rows].mean():.2f}")
        panel.set_title(f"level {number} ({one.level})")
        panel.set_xlabel(wrap_text(f"distance: {', '.join(said)}", 112 // len(levels)), fontsize=7)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(True)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4, handletextpad=0.2)
    figure.suptitle(wrap_text(title, 110), fontsize=8)
    return figure
