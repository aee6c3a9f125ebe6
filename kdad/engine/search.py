"""The one number that a job returns to a search over hyper-parameters: test images have no say unless asked."""

from typing import Any

from kdad.engine.record import HEADLINE
from kdad.errors import UserError

TRAINING = ("loss", "val_loss")  # to minimise; both of normal training images
TESTED = HEADLINE  # to maximise


def check_objective(objective: str | None, on_test_data: bool, n_val: int | None = None, direction: Any = None) -> None:
    """Refuse an objective that is unknown, not allowed, unavailable, or searched the wrong way. Raises `UserError`.

    `n_val` is the number of validation images and `direction` that of the sweeper, each None where not known.
    """
    if objective is None:
        return
    valid = (*TRAINING, *TESTED)
    if objective not in valid:
        raise UserError(f"objective={objective}: give one of {', '.join(valid)}, or null")
    if objective in TESTED and not on_test_data:
        raise UserError(
            f"objective={objective} is measured on test images: what is chosen by it has seen them, and its figures "
            "are too good. Give objective=val_loss or loss; or objective_on_test_data=true, and results.json says so."
        )
    if objective == "val_loss" and n_val == 0:
        raise UserError("objective=val_loss needs validation images: set val_fraction above 0 (found 0 images)")
    wanted = "minimize" if objective in TRAINING else "maximize"
    found = getattr(direction, "name", direction)
    if found is not None and found != wanted:
        raise UserError(f"objective={objective} with hydra.sweeper.direction={found}: set it to {wanted}")


def compute_objective(objective: str | None, results: list[dict[str, Any]]) -> float | None:
    """Return the objective's mean over the categories of a job; None where none is asked for."""
    if objective is None:
        return None
    if missing := [r["category"] for r in results if r.get(objective) is None]:
        raise UserError(f"objective={objective}: the results of {', '.join(map(str, missing))} have none")
    return sum(r[objective] for r in results) / len(results)
