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

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import pandas as pd

from kdad.errors import UserError

__all__ = ["PAPERS", "UNITS", "describe_table", "list_papers", "list_tables", "load_table", "read_index"]

PAPERS = {
    "rd": "Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022",
    "mkd": "Salehi et al., Multiresolution Knowledge Distillation for Anomaly Detection, CVPR 2021",
    "stpm": "Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021",
    "dskd": "Yao, Dual-Student Knowledge Distillation Networks for Unsupervised Anomaly Detection, 2024",
}
UNITS = {"seconds": "s", "megabytes": "MB", "gigaflops": "GFLOP", "million_parameters": "million"}  # of the costs
SCALES = {"percent": 100, "fraction": 1}  # of the scores


def list_papers() -> list[str]:
    """Return the short names of the papers."""
    return list(PAPERS)


def list_tables(paper: str) -> list[str]:
    """Return the names of a paper's tables, such as 5 or figure3. Raises `UserError` for an unknown paper."""
    known = read_index()
    if paper not in PAPERS:
        raise UserError(f"no published tables of {paper!r}; there are: {', '.join(PAPERS)}")
    return known.loc[known["paper"] == paper, "table"].tolist()


def read_index() -> pd.DataFrame:
    """Read the index of the papers' tables, one row each.

    Returns title, unit of the scores, image size and backbone where the paper states them, and what `setting` means.
    """
    return _read_index().copy()


@cache
def _read_index() -> pd.DataFrame:
    """Read the index once in a process."""
    return _read_csv(files(__name__) / "index.csv")


def describe_table(paper: str, table: int | str) -> dict[str, str]:
    """Return the row of `read_index` for one table. Raises `UserError` for an unknown paper or table."""
    if str(table) not in list_tables(paper):
        raise UserError(f"{paper} has no table {table!r}; there are: {', '.join(list_tables(paper))}")
    known = read_index()
    row = known[(known["paper"] == paper) & (known["table"] == str(table))].iloc[0]
    return {str(column): text for column, text in row.items()}


def load_table(paper: str, table: int | str) -> pd.DataFrame:
    """Read the cells of one table.

    Returns one row per cell, in printed order. To what the file holds are added `paper`, `table` and `unit`; `status`,
    which is `printed` or `unknown` (such a cell has no `value`); and `fraction`, a score in [0, 1], missing for costs
    and unknown cells. Raises `UserError` for an unknown paper or table.

    Examples:
        >>> cells = load_table("stpm", 2)
        >>> cells.loc[cells["own"], ["category", "metric", "value", "fraction"]].values.tolist()
        [['average', 'image_auroc', '0.955', 0.955]]
    """
    describe_table(paper, table)  # which names what was asked for
    return _load_table(paper, str(table)).copy()


@cache
def _load_table(paper: str, table: str) -> pd.DataFrame:
    """Read the cells of one table, once in a process."""
    about = describe_table(paper, table)
    name = about["table"]
    cells = _read_csv(files(__name__) / paper / (f"table{name}.csv" if name.isdigit() else f"{name}.csv"))
    cells.insert(0, "paper", paper)
    cells.insert(1, "table", name)
    cells["own"] = cells["own"] == "yes"
    cells.insert(list(cells.columns).index("value"), "unit", cells["metric"].map(UNITS).fillna(about["unit"]))
    known = cells["value"] != "unknown"
    cells["value"] = cells["value"].where(known)
    cells["status"] = known.map({True: "printed", False: "unknown"})
    scores = pd.to_numeric(cells["value"]).where(~cells["metric"].isin(UNITS))
    cells["fraction"] = scores / SCALES[about["unit"]]
    return cells


def _read_csv(path: Traversable) -> pd.DataFrame:
    """Read a CSV file whose cells all stay text, empty ones too."""
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)
