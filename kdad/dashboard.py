"""A dashboard for the runs of `logger=wandb`: `python -m kdad.dashboard --entity <name> --project kdad`.

Needs the extra `dashboard` and a W&B account (`wandb login`).
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from kdad.engine.record import HEADLINE as SCORES
from kdad.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `kdad dashboard`, which is `python -m kdad.dashboard`."""
    parser = argparse.ArgumentParser(prog="python -m kdad.dashboard", description="A W&B dashboard for kdad's runs.")
    parser.add_argument("--entity", required=True, help="W&B user or team")
    parser.add_argument("--project", default="kdad")
    parser.add_argument("--print", action="store_true", help="show the layout as JSON instead of sending it")
    given = parser.parse_args(arguments)
    try:
        view = make_workspace(given.entity, given.project)
    except UserError as error:
        parser.exit(2, f"kdad: {error}\n")
    if given.print:
        print(json.dumps(view._to_model().model_dump(mode="json", by_alias=True), indent=2))
        return
    try:
        view.save()
    except Exception as error:  # W&B's client raises many kinds: no login, no network, no such project
        parser.exit(2, f"kdad: W&B did not take the dashboard: {type(error).__name__}: {error}. `wandb login` first\n")


def make_workspace(entity: str, project: str) -> Any:
    """Return a `wandb_workspaces` view: runs by group, then scores, training, pictures and hyper-parameters.

    Raises `UserError` without the extra `dashboard`.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UserError("The dashboard needs the package wandb-workspaces: pip install 'kdad[dashboard]'") from error

    searched = ("optimizer.lr", "batch_size", "image_size")
    columns = [panels.ParallelCoordinatesPlotColumn(metric=panels.Config(key)) for key in searched]
    columns.append(panels.ParallelCoordinatesPlotColumn(metric=panels.SummaryMetric("val_loss")))
    sections: dict[str, list[Any]] = {
        "Scores": [
            *(panels.BarPlot(title=key, metrics=[key], groupby="model.name", range_x=(0, 1)) for key in SCORES),
            panels.WeavePanelSummaryTable(table_name="summary"),
        ],
        "Training": [
            panels.LinePlot(title=key, x="epoch", y=[key], smoothing_type="none") for key in ("loss", "val_loss")
        ],
        "Score histograms and maps": [
            panels.MediaBrowser(title="scores", media_keys=["scores_normal", "scores_anomalous"]),
            panels.MediaBrowser(title="image | map | mask", media_keys=["maps"]),
        ],
        "Hyper-parameters": [
            panels.ParallelCoordinatesPlot(columns=columns, title="for the validation loss"),
            panels.ParameterImportancePlot(with_respect_to="val_loss"),
        ],
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="kdad",
        sections=[workspaces.Section(name=name, panels=held, is_open=True) for name, held in sections.items()],
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Metric("Group")]),
    )


if __name__ == "__main__":
    main()
