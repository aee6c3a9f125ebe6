"""Pictures to try a detector on: those of its own test that it found hardest."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kdad.engine.checkpoint import Checkpoint
from kdad.engine.run_folder import RunFolder


class Example(NamedTuple):
    """A picture of a run's test and what it truly is."""

    path: Path
    truth: str  # normal or anomalous


def find_hardest(checkpoint: Path, most: int) -> list[Example]:
    """Return the test images that a run's detector found hardest: of each label those nearest to the other one.

    Half are normal with high scores, half anomalous with low ones. Those whose files are gone are left out; empty where
    the checkpoint lies in no run's folder, or the run has not been tested.
    """
    folder = RunFolder.around(checkpoint)
    places = [] if folder is None else [folder, *map(RunFolder, sorted(folder.categories.glob("*")))]
    tables = [place.scores for place in places if place.scores.is_file()]
    if not tables:
        return []
    scores = pd.concat([pd.read_csv(file, dtype={"path": str}) for file in tables])
    if not {"path", "label", "score"} <= set(scores.columns):
        return []
    root = Path(Checkpoint.load(checkpoint).config.get("dataset", {}).get("root") or "")
    normal = scores[scores["label"] == 0].sort_values("score", ascending=False)
    anomalous = scores[scores["label"] == 1].sort_values("score")
    found: list[Example] = []
    for rows, truth in ((anomalous, "anomalous"), (normal, "normal")):
        files = (root / path for path in rows["path"].dropna())  # an absolute path stays itself
        kept = (file for file in files if file.is_file())
        found += [Example(file, truth) for file, _ in zip(kept, range(most // 2), strict=False)]
    return found
