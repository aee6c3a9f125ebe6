"""From a node of the configuration to the object that it describes."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kdad.errors import UserError


def create(node: DictConfig, **arguments: Any) -> Any:
    """Return what a node's `_target_` makes of plain Python containers. Raises `UserError` for refused arguments."""
    try:
        return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        target = str(node.get("_target_"))
        if isinstance(cause, TypeError | ValueError) and not target.startswith("kdad."):
            raise UserError(
                f"{target} refuses its arguments: {cause}. Given: {OmegaConf.to_container(node)}"
            ) from error
        raise
