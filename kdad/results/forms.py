"""Which form of a detector a run is of, the paper's or the released code's, and what it is besides."""

import json

import pandas as pd

from kdad.results.settings import list_form_values


def mark_forms(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that are of a form, with columns `form` and `besides`.

    `runs` are those of `describe_runs`. `besides` is equal where all that decides the figures, but for the form, is;
    in `settings` the form's keys are left out. A run that has some of a form's values changed is of none.
    """
    marked = []
    for index, run in runs.iterrows():
        forms = list_form_values(run["model"], run["dataset"]) if run["config"] else {}
        values = json.loads(run["key"]) if forms else {}
        for form, own in forms.items():
            if all(values.get(key) == value for key, value in own.items()):
                rest = json.dumps({key: value for key, value in values.items() if key not in own}, sort_keys=True)
                told = [text for text in run["settings"].split(", ") if text.partition("=")[0] not in {*own, "form"}]
                marked.append({"index": index, "form": form, "besides": rest, "settings": ", ".join(told)})
    columns = pd.DataFrame(marked, columns=["index", "form", "besides", "settings"]).set_index("index")
    return runs.drop(columns=["settings", "form"], errors="ignore").join(columns, how="inner")
