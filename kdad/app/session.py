"""What one visitor of the page has had judged, and how it is shown."""

import base64
import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from kdad.inference.overlay import draw_overlay
from kdad.inference.result import Result

SHOWN = 1024  # pixels of the longer side of a picture on the page
KEPT = 100  # pictures of a visitor that can be shown again; their rows stay
OWN = 0.5  # the normalised score at a detector's own threshold
TEMPLATES = Environment(loader=PackageLoader("kdad.app"), autoescape=True)


@dataclass(frozen=True)
class Verdict:
    """What a detector says of a picture, as kept: numbers at the picture's own size, and a small copy to draw on."""

    score: float
    normalised: float
    is_anomalous: bool
    area: float
    small: Result | None

    def exceeds(self, threshold: float) -> bool:
        """Return whether the picture is anomalous by a threshold of normalised scores."""
        return self.is_anomalous if threshold == OWN else self.normalised > threshold


@dataclass
class Session:
    """The pictures that a visitor has had judged, in that order; `shown` is the number of one."""

    names: list[str] = field(default_factory=list)
    verdicts: list[dict[str, Verdict]] = field(default_factory=list)  # by detector
    remarks: list[str] = field(default_factory=list)  # on what could not be judged
    shown: int | None = None

    def add(self, name: str, results: Mapping[str, Result]) -> None:
        """Add a picture with each detector's result, and show it."""
        self.names.append(name)
        self.verdicts.append({detector: keep(result) for detector, result in results.items()})
        self.shown = len(self.names) - 1
        if (old := len(self.names) - KEPT - 1) >= 0:
            self.verdicts[old] = {key: replace(one, small=None) for key, one in self.verdicts[old].items()}

    def list_rows(self, threshold: float) -> list[list[str]]:
        """Return the page's table, the last picture first: its name, of each detector score and decision."""
        rows = []
        for name, verdicts in zip(reversed(self.names), reversed(self.verdicts), strict=True):
            pairs = [(f"{one.normalised:.3f}", name_decision(one, threshold)) for one in verdicts.values()]
            rows.append([name, *chain.from_iterable(pairs)])
        return rows

    def write_csv(self, threshold: float) -> str:
        """Return everything that was judged as CSV, a line for each picture and detector."""
        file = io.StringIO()
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("picture", "detector", "score", "normalised_score", "threshold", "decision", "area"))
        for name, verdicts in zip(self.names, self.verdicts, strict=True):
            for detector, one in verdicts.items():
                numbers = repr(one.score), repr(one.normalised), threshold, int(one.exceeds(threshold)), repr(one.area)
                table.writerow((name, detector, *numbers))
        return file.getvalue()

    def show(self, threshold: float, strength: float) -> str:
        """Return the picture that is shown, beside what each detector says of it, as HTML; empty where there is none.

        `threshold` is of normalised scores and pixels, `strength` the opacity of full heat.
        """
        if self.shown is None:
            return ""
        verdicts = self.verdicts[self.shown]
        cards = []
        for detector, one in verdicts.items():
            picture, area = draw(one.small, threshold, strength) if one.small else (None, one.area)
            cards.append({
                "detector": detector, "verdict": one, "decision": name_decision(one, threshold), "area": area,
                "picture": embed(picture) if picture else None,
            })  # fmt: skip
        first = next(iter(verdicts.values())).small
        return TEMPLATES.get_template("shown.html").render(
            name=self.names[self.shown], photograph=embed(first.image) if first else None, cards=cards,
            threshold=threshold,
        )  # fmt: skip

    def show_download(self, threshold: float) -> str:
        """Return a link that holds the table as CSV, as HTML; empty where nothing was judged."""
        if not self.names:
            return ""
        content = base64.b64encode(self.write_csv(threshold).encode()).decode()
        return f'<a class="download" download="judged.csv" href="data:text/csv;base64,{content}">Download as CSV</a>'

    def show_remarks(self) -> str:
        """Return what could not be judged, and why, as HTML."""
        return TEMPLATES.from_string(
            "{% for remark in remarks %}<p class='remark' role='alert'>{{ remark }}</p>{% endfor %}"
        ).render(remarks=self.remarks)


def keep(result: Result) -> Verdict:
    """Return what is kept of a result of a detector with thresholds; its picture no larger than it is shown."""
    assert result.normalised is not None and result.is_anomalous is not None and result.area is not None
    image = result.image.copy()
    image.thumbnail((SHOWN, SHOWN))
    roi = None if result.roi is None else np.array(Image.fromarray(result.roi).resize(image.size))
    small = Result(result.score, result.map, image, result.decision, None, roi)
    return Verdict(result.score, result.normalised, result.is_anomalous, result.area, small)


def name_decision(verdict: Verdict, threshold: float) -> str:
    """Return the decision by a threshold of normalised scores as a word."""
    return "anomalous" if verdict.exceeds(threshold) else "normal"


def draw(small: Result, threshold: float, strength: float) -> tuple[Image.Image, float]:
    """Draw heat and contour over a picture; return it, and the share of it that exceeds a threshold of pixels."""
    assert small.decision is not None and small.mask is not None
    values = small.decision.pixel.normalise(small.anomaly_map.astype(float))
    mask = small.mask if threshold == OWN else values > threshold
    return draw_overlay(small.image, values, mask, "", False, strength), float(mask.mean())


def embed(picture: Image.Image) -> str:
    """Return a picture as a data URI, so that the page needs no file of the server's."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
