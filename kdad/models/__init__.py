"""One file per paper: its equations and its detector."""

import sys

# timm imports Weights & Biases for the summary of its own training scripts, which takes a second, wherever it finds it.
_hidden = not {"timm", "wandb"} & sys.modules.keys()
if _hidden:
    sys.modules["wandb"] = None  # type: ignore[assignment]  # not found, until timm is imported
try:
    import timm  # noqa: F401
finally:
    if _hidden:
        del sys.modules["wandb"]
