"""`kdad <verb>`: the same as `python -m kdad.<verb>`."""

import os
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
WITHOUT_KEYS = ("report", "figures", "cache", "dashboard")  # which take flags, and no Hydra
COMPLETION = ("-sc", "--shell-completion")  # Hydra's: install=bash, and query=bash by what that has installed


def describe_verbs() -> str:
    """Return the list of verbs as text."""
    lines = ["kdad <verb> ...   (the same as python -m kdad.<verb> ...)", ""]
    lines += [f"  {verb:12}{meaning}" for verb, meaning in VERBS.items()]
    return "\n".join([*lines, "", "kdad <verb> --help says more; kdad --version the version."])


def find_verb_to_complete() -> str:
    """Return the verb of the line that a shell completes, and take it out of that line, which Hydra reads next.

    Prints the verbs that the line may go on with where it has none yet. Empty text where there is nothing to ask Hydra.
    """
    line = os.environ.get("COMP_LINE", "")
    words = line.split(maxsplit=2)
    verb = words[1] if len(words) > 1 else ""
    if verb.startswith("-") or "=" in verb:  # of kdad model=rd, as below
        return "run"
    if len(words) < 2 or (len(words) == 2 and not line[-1].isspace()):
        print(*(known for known in VERBS if known.startswith(verb)))
        return ""
    os.environ["COMP_LINE"] = " ".join(["kdad", *words[2:]]) + " " * (len(words) == 2)
    return verb if verb in VERBS and verb not in WITHOUT_KEYS else ""


def main() -> None:
    """Start the verb that the command line names. Exits with status 2 for another word."""
    here = str(Path.cwd())
    if not sys.flags.safe_path and here not in sys.path:
        sys.path.insert(0, here)  # as python -m does: `plugins=[mine]` and `_target_: mine.Mine` are found there
    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    completing = bool(set(COMPLETION) & set(sys.argv))  # for which a command is one word
    if given in COMPLETION and "COMP_LINE" in os.environ:
        given = find_verb_to_complete()
        if not given:
            return
        sys.argv.insert(1, given)
    if given in ("-h", "--help", "help"):
        print(describe_verbs())
    elif given == "--version":
        print(f"kdad {kdad.__version__}")
    elif given in VERBS:
        module = import_module(f"kdad.{given}.__main__" if given in PACKAGES else f"kdad.{given}")
        sys.argv[:2] = ["kdad" if completing else f"kdad {given}"]
        module.main()
    elif given.startswith("-") or "=" in given:  # kdad [-m] model=rd ... was kdad.run in version 0.1
        sys.argv[:1] = ["kdad" if completing else "kdad run"]
        import_module("kdad.run").main()
    else:
        print(f"kdad: {given}: no such verb.\n\n{describe_verbs()}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
