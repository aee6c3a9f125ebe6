"""The result tables of the four papers as data: each cell as printed, a paper's own figures apart from those it quotes.

One CSV per table, `<paper>/table<n>.csv`, one row per printed cell; `index.csv` describes the tables. Bars of a figure
and figures in running text are tables named `figure<n>` and `text`.

method      as printed, without citation marks; a paper's own method is the paper's name in capitals
own         yes: the paper's own figure; no: its quotation, or its own run, of somebody else's method
dataset     empty where the paper names none
category    folder name of MVTec AD, or class of a one-class set; `average_textures`, `average_objects` and `average`
            are printed means, `all` is a data set measured as a whole
setting     the column or row of an ablation; `index.csv` says what it holds
metric      `image_auroc`, `pixel_auroc`, `pro`, or a cost in `UNITS`
value       digits as printed; `unknown` where the sources available do not show the cell. A dash in a paper has no row
spread      what is printed after a plus-minus sign, in the unit of the value
"""

from importlib.resources import files
from importlib.resources.abc import Traversable

import pandas as pd

from kdad.errors import UserError

__all__ = ["PAPERS", "UNITS", "describe", "index", "load", "papers", "tables"]

PAPERS = {
    "rd": "Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022",
    "mkd": "Salehi et al., Multiresolution Knowledge Distillation for Anomaly Detection, CVPR 2021",
    "stpm": "Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021",
    "dskd": "Yao, Dual-Student Knowledge Distillation Networks for Unsupervised Anomaly Detection, 2024",
}
UNITS = {"seconds": "s", "megabytes": "MB", "gigaflops": "GFLOP", "million_parameters": "million"}  # of the costs
SCALES = {"percent": 100, "fraction": 1}  # of the scores


def index() -> pd.DataFrame:
    """One row per table: title, unit of its scores, image size and backbone where stated, meaning of `setting`."""
    return read(files(__name__) / "index.csv")


def papers() -> list[str]:
    """The papers, by short name."""
    return list(PAPERS)


def tables(paper: str) -> list[str]:
    """The tables of one paper."""
    known = index()
    if paper not in PAPERS:
        raise UserError(f"no published tables of {paper!r}; there are: {', '.join(PAPERS)}")
    return known.loc[known["paper"] == paper, "table"].tolist()


def describe(paper: str, table: int | str) -> dict[str, str]:
    """The table's row of the index."""
    if str(table) not in tables(paper):
        raise UserError(f"{paper} has no table {table!r}; there are: {', '.join(tables(paper))}")
    known = index()
    return known[(known["paper"] == paper) & (known["table"] == str(table))].iloc[0].to_dict()


def load(paper: str, table: int | str) -> pd.DataFrame:
    """The cells of one table in printed order.

    Adds `paper`, `table` and `unit` to what the file holds; `status` is `printed` or `unknown`, an unknown cell has no
    `value`; `fraction` is a score in [0, 1], missing for costs and unknown cells.
    """
    about = describe(paper, table)
    name = about["table"]
    cells = read(files(__name__) / paper / (f"table{name}.csv" if name.isdigit() else f"{name}.csv"))
    cells.insert(0, "paper", paper)
    cells.insert(1, "table", name)
    cells["own"] = cells["own"] == "yes"
    cells.insert(cells.columns.get_loc("value"), "unit", cells["metric"].map(UNITS).fillna(about["unit"]))
    known = cells["value"] != "unknown"
    cells["value"] = cells["value"].where(known)
    cells["status"] = known.map({True: "printed", False: "unknown"})
    scores = pd.to_numeric(cells["value"]).where(~cells["metric"].isin(UNITS))
    cells["fraction"] = scores / SCALES[about["unit"]]
    return cells


def read(path: Traversable) -> pd.DataFrame:
    """A CSV file whose cells all stay text, empty ones too."""
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)
