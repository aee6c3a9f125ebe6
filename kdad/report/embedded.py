"""What the page shows of runs, drawn and embedded: histograms, curves and the hardest images, as data URIs."""

import base64
import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from kdad.errors import UserError
from kdad.figures.curves import PANELS, curve_of, draw_curves
from kdad.figures.gallery import pictures_of
from kdad.figures.histograms import draw_histograms
from kdad.figures.series import Series, percent, scores_of, series
from kdad.figures.style import styled

HEIGHT = 256  # pixels that an embedded picture is high, at most
SVG = {"svg.fonttype": "none", "svg.hashsalt": "kdad"}  # text as text; the same input gives the same bytes
SAVED = {
    "transparent": True, "dpi": 200, "bbox_inches": "tight", "pad_inches": 0.03,
    "metadata": {"Date": None, "Creator": None},
}  # fmt: skip


def histogram(run: pd.Series) -> dict[str, Any]:
    """Of the image scores, or the problem in its place."""
    try:
        figure = draw_histograms([Series("", pd.DataFrame([run]))])
    except UserError as error:
        return {"histogram": None, "histogram_problem": str(error)}
    return {"histogram": svg(figure), "histogram_problem": ""}


def galleries(run: pd.Series, pictures: int) -> dict[str, Any]:
    """The normal images that score highest and the anomalous that score lowest, of those with a picture in maps/."""
    if not pictures:
        return {"galleries": [], "gallery_note": "Pictures were left out of this page (--pictures 0)."}
    try:
        with redirect_stderr(io.StringIO()):  # how many have a picture is said here
            found = pictures_of(run)
        scores = scores_of(run)
        found["score"] = scores.loc[found.index, "score"]
        normal, anomalous = found[found["label"] == 0], found[found["label"] == 1]
        chosen = [
            ("Highest-scored normal images", _pictures(normal.nlargest(-(-pictures // 2), "score"), "normal")),
            ("Lowest-scored anomalous images", _pictures(anomalous.nsmallest(pictures // 2, "score"), "anomalous")),
        ]
    except UserError as error:
        return {"galleries": [], "gallery_note": str(error)}
    few = len(found) < len(scores)
    note = f"Of the {len(found)} of {len(scores)} test images that the run has kept a picture of." if few else ""
    return {"galleries": [gallery for gallery in chosen if gallery[1]], "gallery_note": note}


def _pictures(chosen: pd.DataFrame, kind: str) -> list[dict[str, str]]:
    other = {"normal": "above {:.0f} % of the anomalous", "anomalous": "below {:.0f} % of the normal"}[kind]
    made = []
    for _, picture in chosen.iterrows():
        rank = "" if pd.isna(picture["misranked"]) else f", {other.format(100 * picture['misranked'])}"
        name = f"{picture['kind']} {picture['stem']}"
        made.append({
            "name": name,
            "score": f"score {picture['score']:.4g}{rank}",
            "alt": f"{kind} test image {name}, its anomaly map, and its mask if it has one",
            "uri": _webp(picture["picture"]),
        })  # fmt: skip
    return made


def _webp(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    small.thumbnail((small.width, HEIGHT))
    buffer = io.BytesIO()
    small.save(buffer, "webp", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def svg(figure: Figure) -> str:
    """The figure as a data URI, a document of its own: identifiers of several would clash in one."""
    for band in figure.findobj(PolyCollection):  # of a point per pixel of the test; lines are simplified as they are
        band.set_rasterized(True)
    buffer = io.StringIO()
    with styled(), matplotlib.rc_context(SVG):
        figure.savefig(buffer, format="svg", **SAVED)
    return f"data:image/svg+xml,{quote(buffer.getvalue(), safe=' /:;=,()')}"


def curves(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The curves of each data set's category: a figure for each kind of curve, and what it lacks."""
    for (dataset, category), rows in table[table["status"] == "ok"].groupby(["dataset", "category"], sort=False):
        figures, notes = [], io.StringIO()
        for name, about in PANELS.items():
            having = [index for index, run in rows.iterrows() if _has_curve(run, name, notes)]
            if having:
                with redirect_stderr(notes):
                    shown = series(rows.loc[having])
                areas = "; ".join(f"{one.label} {percent(one.runs[about.metric].mean())} %" for one in shown)
                title = "PRO curves" if name == "pro" else f"ROC curves of {about.title.lower()}"
                alt = f"{title} on {dataset} {category}. Area below: {areas}"
                figures.append({"uri": svg(draw_curves(shown, [name])), "alt": alt})
        said = list(dict.fromkeys(line.removeprefix("kdad: ") for line in notes.getvalue().splitlines()))
        yield {"name": f"{dataset} {category}", "runs": rows["number"].tolist(), "figures": figures, "notes": said}


def _has_curve(run: pd.Series, name: str, notes: io.StringIO) -> bool:
    try:
        curve_of(run, PANELS[name])
    except UserError as error:
        print(f"Run {run['number']}: {str(error).partition('. --curves')[0]}", file=notes)
        return False
    return True
