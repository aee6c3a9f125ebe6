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
from kdad.figures.curves import PANELS, draw_curves, read_curve
from kdad.figures.gallery import list_pictures
from kdad.figures.histograms import draw_histograms
from kdad.figures.style import use_style
from kdad.results.series import Series, group_runs, read_scores
from kdad.results.words import format_percent, merge_notes

HEIGHT = 256  # pixels that an embedded picture is high, at most
Links = dict[tuple[Any, str, str], str]  # index, kind and stem of a test image -> an anchor of the page


def embed_histogram(run: pd.Series) -> dict[str, Any]:
    """Draw the histogram of a run's image scores. Returns it as a data URI, or the problem in its place."""
    try:
        figure = next(draw_histograms([Series("", pd.DataFrame([run]))]))
    except UserError as error:
        return {"histogram": None, "histogram_problem": str(error)}
    return {"histogram": encode_svg(figure), "histogram_problem": ""}


def embed_galleries(run: pd.Series, pictures: int, links: Links) -> dict[str, Any]:
    """Collect the hardest images of a run: normal ones that score highest, anomalous ones that score lowest.

    Returns galleries of at most `pictures` in all, of those with a picture in maps/, and a note on what is not shown.
    An image in `links` has the anchor of where the page shows it again.
    """
    if not pictures:
        return {"galleries": [], "gallery_note": "Pictures were left out of this page (--pictures 0)."}
    try:
        with redirect_stderr(io.StringIO()):  # how many have a picture is said here
            kept = list_pictures(run)
        scores = read_scores(run)
        kept["score"] = scores.loc[kept.index, "score"]
        normal = kept[kept["label"] == 0].nlargest(-(-pictures // 2), "score")
        anomalous = kept[kept["label"] == 1].nsmallest(pictures // 2, "score")
        chosen = [
            ("Highest-scored normal images", _embed_pictures(normal, "normal", links)),
            ("Lowest-scored anomalous images", _embed_pictures(anomalous, "anomalous", links)),
        ]
    except UserError as error:
        return {"galleries": [], "gallery_note": str(error)}
    few = len(kept) < len(scores)
    note = f"Of the {len(kept)} of {len(scores)} test images that the run has kept a picture of." if few else ""
    return {"galleries": [gallery for gallery in chosen if gallery[1]], "gallery_note": note}


def _embed_pictures(chosen: pd.DataFrame, kind: str, links: Links) -> list[dict[str, str]]:
    other = {"normal": "above {:.0f} % of the anomalous", "anomalous": "below {:.0f} % of the normal"}[kind]
    made = []
    for index, picture in chosen.iterrows():
        rank = "" if pd.isna(picture["misranked"]) else f", {other.format(100 * picture['misranked'])}"
        name = f"{picture['kind']} {picture['stem']}"
        made.append({
            "name": name,
            "score": f"score {picture['score']:.4g}{rank}",
            "alt": f"{kind} test image {name}, its anomaly map, and its mask if it has one",
            "uri": _read_picture(picture["picture"]),
            "link": links.get((index, picture["kind"], picture["stem"]), ""),
        })  # fmt: skip
    return made


def _read_picture(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    return encode_webp(small, HEIGHT)


def encode_webp(picture: Image.Image, height: int) -> str:
    """Write a picture as a data URI, made smaller where it is higher than `height` pixels."""
    small = picture.copy()
    small.thumbnail((small.width, height))
    buffer = io.BytesIO()
    small.save(buffer, "webp", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def encode_svg(figure: Figure) -> str:
    """Write a figure as a data URI: a document of its own, since identifiers of several would clash in one.

    The same figure gives the same text.
    """
    for band in figure.findobj(PolyCollection):  # of a point per pixel of the test; lines are simplified as they are
        band.set_rasterized(True)
    buffer = io.StringIO()
    with use_style(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kdad"}):  # text stays text
        figure.savefig(
            buffer, format="svg", transparent=True, dpi=200,  # a tight box would draw it once more
            metadata={"Date": None, "Creator": None},
        )  # fmt: skip
    return f"data:image/svg+xml,{quote(buffer.getvalue(), safe=' /:;=,()')}"


def embed_curves(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Draw the curves of each category of a data set.

    Yields for each a figure of every kind of curve that some run has left, and notes on those that lack one.
    """
    for (dataset, category), rows in table[table["status"] == "ok"].groupby(["dataset", "category"], sort=False):
        figures, lacking, notes = [], [], io.StringIO()
        for name, about in PANELS.items():
            problems = {index: _find_problem(run, name) for index, run in rows.iterrows()}
            numbers = dict(zip(rows.index, rows["number"], strict=True))
            lacking += [(f"run {numbers[index]}", text) for index, text in problems.items() if text]
            if having := [index for index, text in problems.items() if not text]:
                with redirect_stderr(notes):
                    shown = group_runs(rows.loc[having])
                areas = "; ".join(f"{one.label} {format_percent(one.runs[about.metric].mean())} %" for one in shown)
                title = "PRO curves" if name == "pro" else f"ROC curves of {about.title.lower()}"
                alt = f"{title} on {dataset} {category}. Area below: {areas}"
                figures.append({"uri": encode_svg(draw_curves(shown, [name])), "alt": alt})
        said = list(dict.fromkeys(line.removeprefix("kdad: ") for line in notes.getvalue().splitlines()))
        said = [*merge_notes(lacking), *said]
        yield {"name": f"{dataset} {category}", "runs": rows["number"].tolist(), "figures": figures, "notes": said}


def _find_problem(run: pd.Series, name: str) -> str:
    """Return why a run has not left this curve; empty where it has."""
    try:
        read_curve(run, PANELS[name])
    except UserError as error:
        return str(error).partition(". --curves")[0].removeprefix(f"{run['folder']} ")
    return ""
