"""From a node of the configuration to the object that it describes."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kdad.errors import UserError

LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning_utilities")
LONG = ("pytorch_lightning.Trainer",)  # with more arguments than a message can show


def create(node: DictConfig, **arguments: Any) -> Any:
    """Create a node's `_target_` object from plain Python containers. Raises `UserError` for refused arguments."""
    try:
        return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        target = str(node.get("_target_"))
        theirs = type(cause).__module__.partition(".")[0] in LIGHTNING  # such as an accelerator that is not there
        if theirs or (isinstance(cause, TypeError | ValueError) and not target.startswith("kdad.")):
            given = "" if theirs or target in LONG else f". Given: {OmegaConf.to_container(node)}"
            raise UserError(f"{target} refuses its arguments: {cause}{given}") from error
        if isinstance(cause, MemoryError) or (isinstance(cause, RuntimeError) and "alloc" in str(cause)):
            raise UserError(f"{target} needs more memory than there is: {str(cause).splitlines()[0][:200]}") from error
        raise
