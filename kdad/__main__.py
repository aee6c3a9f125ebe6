"""`kdad <verb>`: the same as `python -m kdad.<verb>`."""

import sys
from importlib import import_module
from pathlib import Path

import kdad

VERBS = {
    "run": "train and test a detector, or a sweep of them",
    "evaluate": "test a trained detector again, without training",
    "predict": "judge pictures by a trained detector: scores, decisions, overlays",
    "calibrate": "set a trained detector's thresholds from pictures of your own",
    "export": "make a trained detector one file that needs no other",
    "app": "try trained detectors in a browser, or over HTTP",
    "check": "what a data set holds: images, masks, sizes, what cannot be read",
    "report": "tables of runs, beside the papers' figures; one HTML page",
    "figures": "curves, histograms, galleries, bars, t-SNE of runs",
    "benchmark": "what a detector costs: time in several runtimes, memory, parameters",
    "pretrain": "a teacher of one's own",
    "cache": "list or clear decoded images and teacher features on disk",
    "dashboard": "a Weights & Biases dashboard for the runs of logger=wandb",
}

PACKAGES = ("predict", "calibrate", "export", "report", "figures", "benchmark", "app")


def describe_verbs() -> str:
    """Return the list of verbs as text."""
    lines = ["kdad <verb> ...   (the same as python -m kdad.<verb> ...)", ""]
    lines += [f"  {verb:12}{meaning}" for verb, meaning in VERBS.items()]
    return "\n".join([*lines, "", "kdad <verb> --help says more; kdad --version the version."])


def main() -> None:
    """Start the verb that the command line names. Exits with status 2 for another word."""
    here = str(Path.cwd())
    if not sys.flags.safe_path and here not in sys.path:
        sys.path.insert(0, here)  # as python -m does: `plugins=[mine]` and `_target_: mine.Mine` are found there
    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if given in ("-h", "--help", "help"):
        print(describe_verbs())
    elif given == "--version":
        print(f"kdad {kdad.__version__}")
    elif given in VERBS:
        module = import_module(f"kdad.{given}.__main__" if given in PACKAGES else f"kdad.{given}")
        sys.argv[:2] = [f"kdad {given}"]
        module.main()
    elif given.startswith("-") or "=" in given:  # kdad [-m] model=rd ... was kdad.run in version 0.1
        sys.argv[:1] = ["kdad run"]
        import_module("kdad.run").main()
    else:
        print(f"kdad: {given}: no such verb.\n\n{describe_verbs()}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
