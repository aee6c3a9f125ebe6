"""One table of tolerances for the project: what the arithmetic allows, by dtype."""

import torch

CLOSE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
}
