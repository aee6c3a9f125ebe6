"""Tables of any number of runs, alone or beside the published figures: `python -m kdad.report outputs/study`."""
