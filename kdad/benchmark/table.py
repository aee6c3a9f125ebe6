"""A detector's costs as a table, beside the papers'."""

from typing import Any

from rich.console import Console
from rich.table import Table

from kdad import published
from kdad.geometry import name_size

PRINTED = (("rd", 3), ("dskd", 6))  # the papers' tables of costs
NOTE = (
    "The papers measured on an Intel i7, at an image size that they do not state, and do not say what their memory is "
    "of.\nDSKD's FLOPs are read as multiply-adds: so counted, MKD's teacher and cloner at 256 px take 20.95 without "
    "the backward pass, and it prints 20.96."
)


def load_published_costs(model: str) -> list[dict[str, str]]:
    """Return the costs that the papers print for a method.

    Each has metric, value, unit and source, which says so where the paper quotes it.
    """
    rows = []
    for paper, table in PRINTED:
        cells = published.load_table(paper, table)
        costs = cells[cells["metric"].isin(published.UNITS) & (cells["method"] == model.upper())]
        for cell in costs.to_dict("records"):
            where = f"{paper.upper()} Table {table}" + ("" if cell["own"] else ", quoted")
            rows.append({"metric": cell["metric"], "value": cell["value"], "unit": cell["unit"], "source": where})
    return rows


def print_costs(costs: dict[str, Any]) -> None:
    """Print the costs as a table, measured beside published."""
    size = name_size(costs["image_size"])
    table = Table(title=f"{costs['model']}, {costs['backbone']} ({costs['weights']}), {size} px")
    table.add_column("", justify="left")
    table.add_column("here", justify="right")
    table.add_column("published", justify="left")
    beside = dict.fromkeys(published.UNITS, "")
    for row in costs["published"]:  # no method has a cost in both papers
        beside[row["metric"]] = f"{row['value']} {row['unit']} ({row['source']})"
    first = costs["measured"][0]
    median = first["runtimes"]["eager"]["seconds_per_image"]["median"]
    table.add_row(f"s per image, {first['device']}, batch {first['batch']}", f"{median:.4g}", beside["seconds"])
    for entry in costs["measured"]:
        table.add_row(f"peak MB, {entry['device']}, batch {entry['batch']}", f"{entry['peak_bytes'] / 1e6:.1f}")
    table.add_row("weights MB, teacher's too", f"{costs['weights_bytes'] / 1e6:.1f}", beside["megabytes"])
    table.add_row("checkpoint MB", f"{costs['checkpoint_bytes'] / 1e6:.1f}")
    table.add_row("10^9 FLOPs per image", f"{costs['flops_per_image'] / 1e9:.3f}")
    table.add_row("10^9 multiply-adds per image", f"{costs['multiply_adds_per_image'] / 1e9:.3f}", beside["gigaflops"])
    table.add_row("million parameters, trained", f"{costs['parameters_trained'] / 1e6:.2f}")
    table.add_row("million parameters, in all", f"{costs['parameters_total'] / 1e6:.2f}", beside["million_parameters"])
    console = Console()
    console.print(table)
    for device in dict.fromkeys(entry["device"] for entry in costs["measured"]):
        entries = [entry for entry in costs["measured"] if entry["device"] == device]
        console.print(list_times(entries))
        for runtime, times in entries[0]["runtimes"].items():
            if "reason" in times:
                console.print(f"{runtime} does not run here: {times['reason']}", soft_wrap=True, markup=False)
    where = ", ".join(dict.fromkeys(entry["hardware"] for entry in costs["measured"]))
    console.print(
        f"Quartiles of {costs['measured'][0]['repeats']} calls on {where}, from images in memory to maps. "
        "1 MB is 10^6 bytes.",
        soft_wrap=True,
    )
    if costs["published"]:
        console.print(NOTE, soft_wrap=True)


def list_times(measured: list[dict[str, Any]]) -> Table:
    """Return a table of the runtimes' times per image for each batch size, and how far they are from eager."""
    device, threads = measured[0]["device"], measured[0]["threads"]
    table = Table(title=f"ms per image on {device}" + (f", threads: {threads}" if threads else ""))
    table.add_column("runtime", min_width=max(map(len, measured[0]["runtimes"])))
    for entry in measured:
        table.add_column(f"batch {entry['batch']}", justify="right")
        table.add_column("x eager", justify="right")
    table.add_column("differs by", justify="right")
    for runtime in measured[0]["runtimes"]:
        cells: list[str] = []
        found = [entry["runtimes"][runtime] for entry in measured]
        for entry, times in zip(measured, found, strict=True):
            if "reason" in times:
                cells += ["none", ""]
                continue
            median = 1000 * times["seconds_per_image"]["median"]
            gained = entry["runtimes"]["eager"]["seconds_per_image"]["median"] * 1000 / median
            cells += [f"{median:.1f}", f"{gained:.2f}"]
        errors = [times["difference"] for times in found if "difference" in times]
        table.add_row(runtime, *cells, f"{max(errors):.1e}" if errors else "")
    return table
