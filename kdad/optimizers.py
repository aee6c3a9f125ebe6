"""Adam on a CPU in one pass over the weights."""

import torch
from torch.optim import Adam, AdamW, Optimizer


def fuse(optimizer: Optimizer) -> Optimizer:
    """Let Adam or AdamW of weights on a CPU go over memory once in a step instead of six times; others stay as they are.

    `optimizer.fused` of the configuration overrules it. The gradients must be autograd's, which lie in memory as their
    weights do: torch's fused update takes numbers in the order they lie in, whatever their strides.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    able = torch.__version__ >= "2.4" and type(optimizer) in (Adam, AdamW)
    if able and all(weight.device.type == "cpu" for weight in weights):
        for group in optimizer.param_groups:
            if group["fused"] is None and not any(group[key] for key in ("foreach", "capturable", "differentiable")):
                group["fused"] = True
        optimizer.register_load_state_dict_post_hook(_as_the_weights_lie)
    return optimizer


def _as_the_weights_lie(optimizer: Optimizer) -> None:
    """Moments of a checkpoint lie as the weights did when it was written, perhaps by another version."""
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == weight.shape:
                state[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
