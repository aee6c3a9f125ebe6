"""What the terminal shows of a finished job."""

from typing import Any

from rich.console import Console
from rich.table import Table

from kdad.engine.record import EXTRA, HEADLINE, RATES, is_first_process
from kdad.engine.run_folder import RunFolder

OF_CHANCE = {"image_auroc": "image", "pixel_auroc": "pixel"}  # metrics that are 0.5 for scores by chance


def format_headline(results: dict[str, Any]) -> list[str]:
    """Return the headline metrics of results.json as text, n/a where there is none."""
    return ["n/a" if results.get(key) is None else f"{results[key]:.4f}" for key in HEADLINE]


def show(results: dict[str, Any], folder: RunFolder) -> None:
    """Print the final table, why a metric is missing, what the cache did, and where everything lies."""
    if not is_first_process():
        return
    table = Table(title=f"{results['model']} on {results['dataset']} / {results['category']}")
    seconds = [key for key in ("fit_seconds", "test_seconds") if key in results]
    parts = results.get("category_names", [])
    for key in (*["category"] * bool(parts), *HEADLINE, *seconds):
        table.add_column(key, justify="left" if key == "category" else "right")
    for name in parts:
        table.add_row(name, *format_headline(folder.category(name).read()))
    mean = ["mean"] if parts else []
    table.add_row(*mean, *format_headline(results), *(f"{results[key]:.1f}" for key in seconds))
    console = Console()
    console.print(table)
    for key in HEADLINE:
        if results[key] is None:
            console.print(f"{key}: {results[f'{key}_reason']}")
        elif key in OF_CHANCE and results[key] < 0.5:
            what = OF_CHANCE[key]
            console.print(
                f"{key} {results[key]:.4f} is below 0.5: a normal {what} scores higher than an anomalous one more "
                "often than not", soft_wrap=True,
            )  # fmt: skip
    for key in filter(EXTRA.fullmatch, results):
        value = results[key]
        number = results[f"{key}_reason"] if value is None else f"{value:.4f}"
        console.print(f"{key}: {number}", soft_wrap=True, highlight=False, markup=False)
    for protocol in (key.removeprefix("protocol@") for key in results if key.startswith("protocol@")):
        found = {f"{key}@{protocol}": results[f"{key}@{protocol}"] for key in HEADLINE}
        numbers = ", ".join("n/a" if value is None else f"{value:.4f}" for value in found.values())
        reasons = dict.fromkeys(results[f"{key}_reason"] for key, value in found.items() if value is None)
        why = f" ({'; '.join(reasons)})" if reasons else ""
        console.print(f"By {protocol}, not comparable: {numbers}{why}", soft_wrap=True)
    said = [f"{key} {results[key]:.4f}" for key in RATES if results.get(key) is not None]
    for key in RATES:
        if results.get(key) is None and results.get("decision_rule"):
            console.print(f"{key}: {results.get(f'{key}_reason')}")
    if results.get("decision_rule"):
        held_out = results["decision_source"] != "training"
        where = "" if held_out else ", which flatter: calibration_fraction= holds some out, kdad calibrate takes others"
        n, promised = results["decision_images"], results.get("false_alarms_promised")
        images = f"{n} normal {results['decision_source']} images"
        images += "" if promised is None else f", which promise {promised:.4f} false alarms"
        if promised is not None and results["decision_rule"] == "quantile" and round(promised * (n + 1)) == 1:
            images += f", the fewest that {n} images can"
        console.print(
            f"At the threshold by {results['decision_rule']} of {images}{where}{':' * bool(said)}", soft_wrap=True
        )
        if said:
            console.print(f"  {', '.join(said)}", soft_wrap=True)
    cached = (f"{results.get(f'cache_{key}')} {key}" for key in ("hits", "misses"))
    size = results.get("cache_bytes", 0) / 1e9
    console.print(f"Cache: {results.get('cache_storage')}, {size:.2f} GB, {', '.join(cached)}", soft_wrap=True)
    console.print(f"Results, scores, maps and checkpoints: {folder}", soft_wrap=True, markup=False)
