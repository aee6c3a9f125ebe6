"""Whether detectors differ by more than chance: paired differences, intervals, and tests over categories.

Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7 (2006): Wilcoxon's signed ranks for two
detectors, Friedman's test and Nemenyi's critical difference for several. Categories are what a conclusion is drawn
over; the seeds of one category are repetitions, not further evidence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kdad.results.series import read_scores

ALPHA = 0.05
DRAWS = 10_000  # of a bootstrap over categories and seeds
IMAGE_DRAWS = 1000  # of one over test images, each of which ranks them anew
OF_IMAGES = ("image_auroc", "image_ap", "image_f1_max")


@dataclass
class Difference:
    """How far the first of two detectors is above the second, in one metric, where both were run.

    `mean` is over categories of the mean over the seeds that both have, `low` and `high` its 95 % interval by bootstrap
    `over` what the name says, NaN where there is none. `p` is Wilcoxon's over categories, NaN below two of them;
    `corrected` is Holm's over all pairs. `better`, `worse`, `equal` count categories.
    """

    first: str
    second: str
    categories: int
    seeds: tuple[int, int]  # least and most that both have, over the categories
    mean: float
    low: float
    high: float
    over: str
    p: float
    better: int
    worse: int
    equal: int
    corrected: float = math.nan


@dataclass
class Ranking:
    """The mean rank of each detector over the categories that all have, 1 the best; and what tells them apart.

    `p` is Friedman's, `critical` Nemenyi's difference of mean ranks at 0.05; both NaN for fewer than three detectors or
    two categories.
    """

    ranks: dict[str, float]
    categories: int
    p: float
    critical: float
    alike: list[list[str]] = field(default_factory=list)  # largest groups whose ranks differ by less than `critical`


def compare_pairs(named: dict[str, pd.DataFrame], metric: str, seed: int = 0) -> list[Difference]:
    """Compare every two detectors in one metric, each by its complete runs; one row per category and seed.

    Returns a difference for each pair that shares a category and a seed there, Holm-corrected together.
    """
    values = {name: tabulate(rows, metric) for name, rows in named.items()}
    found = []
    for a, b in combinations(named, 2):
        both = pd.concat([values[a].rename("a"), values[b].rename("b")], axis=1, join="inner").dropna()
        if both.empty:
            continue
        gaps = [group.to_numpy() for _, group in (both["a"] - both["b"]).groupby(level=[0, 1])]
        means = np.array([gap.mean() for gap in gaps])
        low, high, over = bootstrap_runs(gaps, np.random.default_rng(seed))
        if len(both) == 1 and metric in OF_IMAGES:
            runs = [find_run(named[name], both.index[0]) for name in (a, b)]
            low, high, over = bootstrap_images(runs[0], runs[1], metric, np.random.default_rng(seed))
        counts = [len(gap) for gap in gaps]
        signs = np.sign(np.round(means, 12))
        better, worse, equal = (int((signs == sign).sum()) for sign in (1, -1, 0))
        seeds, p = (min(counts), max(counts)), rank_signs(means)
        mean = float(means.mean())
        found.append(Difference(a, b, len(gaps), seeds, mean, low, high, over, p, better, worse, equal))
    for one, p in zip(found, correct_holm([one.p for one in found]), strict=True):
        one.corrected = p
    return found


def tabulate(rows: pd.DataFrame, metric: str) -> pd.Series:
    """Return a metric by (data set, category, seed), one value each."""
    rows = rows[rows["status"] == "ok"]
    return rows.set_index(["dataset", "category", "seed"])[metric].groupby(level=[0, 1, 2]).last()


def find_run(rows: pd.DataFrame, key: tuple[str, str, int]) -> pd.Series:
    """Return the complete run of a data set, category and seed."""
    alike = (rows["dataset"] == key[0]) & (rows["category"] == key[1]) & (rows["seed"] == key[2])
    return rows[alike & (rows["status"] == "ok")].iloc[-1]


def bootstrap_runs(gaps: Sequence[NDArray], rng: np.random.Generator) -> tuple[float, float, str]:
    """Return a 95 % percentile interval of the mean of categories' means, and what was drawn anew.

    `gaps` are the seeds' differences of each category. Categories are drawn with replacement, then seeds within each;
    where there is one of either, the other alone. NaN where there is one of both.
    """
    several, repeated = len(gaps) > 1, max(map(len, gaps)) > 1
    if not several and not repeated:
        return math.nan, math.nan, ""
    chosen = rng.integers(len(gaps), size=(DRAWS, len(gaps)))
    drawn = np.empty(chosen.shape)
    for place, gap in enumerate(gaps):
        here = chosen == place
        drawn[here] = gap[rng.integers(len(gap), size=(int(here.sum()), len(gap)))].mean(axis=1)
    low, high = np.quantile(drawn.mean(axis=1), (ALPHA / 2, 1 - ALPHA / 2))
    return float(low), float(high), " and ".join(["categories"] * several + ["seeds"] * repeated)


def bootstrap_images(
    first: pd.Series, second: pd.Series, metric: str, rng: np.random.Generator
) -> tuple[float, float, str]:
    """Return a 95 % percentile interval of the difference of two runs' image metrics, over test images.

    Images that both have judged are drawn with replacement, the same for both, normal and anomalous ones apart. NaN
    where one has left no scores, or they share none of a kind.
    """
    from kdad.metrics.detection import OF_IMAGES as MEASURES  # with torch, which no other table needs
    from kdad.metrics.ranking import rank_curve

    if first["scores_file"] is None or second["scores_file"] is None:
        return math.nan, math.nan, ""
    both = read_scores(first).merge(read_scores(second), on=["path", "label"])
    kinds = [both.loc[both["label"] == label, ["score_x", "score_y"]].to_numpy() for label in (0, 1)]
    if not all(len(kind) for kind in kinds):
        return math.nan, math.nan, ""
    found = np.empty(IMAGE_DRAWS)
    for draw in range(IMAGE_DRAWS):
        normal, anomalous = (kind[rng.integers(len(kind), size=len(kind))] for kind in kinds)
        a, b = (MEASURES[metric](rank_curve(normal[:, run], anomalous[:, run])) for run in (0, 1))
        found[draw] = a - b
    low, high = np.quantile(found, (ALPHA / 2, 1 - ALPHA / 2))
    return float(low), float(high), "test images"


def rank_signs(differences: NDArray) -> float:
    """Return the two-sided p of Wilcoxon's signed ranks, exact for few; NaN for fewer than two, 1 where all are 0."""
    rounded = np.round(differences, 12)
    if len(rounded) < 2:
        return math.nan
    if not rounded.any():
        return 1.0
    from scipy import stats  # which other tables do without

    return float(stats.wilcoxon(rounded, zero_method="wilcox").pvalue)


def find_least_p(categories: int) -> float:
    """Return the least p that Wilcoxon's test can give for so many categories, however large the differences."""
    return min(1.0, 2.0 ** (1 - categories))


def correct_holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for as many tests by Holm's step-down method; NaN stays and counts as no test."""
    corrected = [math.nan] * len(values)
    order = sorted((i for i, p in enumerate(values) if not math.isnan(p)), key=lambda i: values[i])
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * values[i]))
        corrected[i] = largest
    return corrected


def rank_detectors(named: dict[str, pd.DataFrame], metric: str) -> Ranking | None:
    """Rank the detectors in one metric over the categories that all have; None where there is no such category.

    A category counts once, by the mean over its seeds; equal values share their ranks.
    """
    columns = {name: tabulate(rows, metric).dropna().groupby(level=[0, 1]).mean() for name, rows in named.items()}
    table = pd.concat(columns, axis=1, join="inner").dropna()
    if table.empty or len(named) < 2:
        return None
    rounded = table.round(12)
    ranks = rounded.rank(axis=1, ascending=False).mean()
    n, k = table.shape
    p = critical = math.nan
    if k > 2 and n > 1:
        from scipy import stats

        p = float(stats.friedmanchisquare(*(rounded[name] for name in rounded)).pvalue)
        critical = float(
            stats.studentized_range.ppf(1 - ALPHA, k, np.inf) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
        )
    ordered = ranks.sort_values(kind="stable")
    ranked = {str(name): float(rank) for name, rank in ordered.items()}
    return Ranking(ranked, n, p, critical, group_alike(ordered, critical))


def group_alike(ordered: pd.Series, critical: float) -> list[list[str]]:
    """Return the largest groups of neighbours in rank, of two and more, that differ by less than the critical value."""
    if math.isnan(critical):
        return []
    names, values = list(ordered.index), ordered.to_numpy()
    groups: list[list[str]] = []
    for start in range(len(names)):
        stop = int(np.searchsorted(values, values[start] + critical))
        group = names[start:stop]
        if len(group) > 1 and not (groups and set(group) <= set(groups[-1])):
            groups.append(group)
    return groups
