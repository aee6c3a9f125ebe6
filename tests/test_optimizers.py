"""Adam in one pass: the same numbers as Adam in several."""

import pytest
import torch

from kdad.models.stpm import STPM
from kdad.speed import fuse

LAYOUTS = torch.contiguous_format, torch.channels_last


def weights(layout=torch.channels_last):
    generator = torch.Generator().manual_seed(0)
    shapes = (8, 6, 3, 3), (8,), (4, 8, 1, 1)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [
        w.contiguous(memory_format=layout if w.dim() == 4 else torch.contiguous_format).requires_grad_() for w in drawn
    ]


def take_steps(optimizer, start, stop):
    for step in range(start, stop):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(1 + step)
        parts = [
            (w * torch.randn(w.shape, generator=generator, dtype=w.dtype)).sum()
            for w in optimizer.param_groups[0]["params"]
        ]
        sum(parts).backward()
        optimizer.step()


def trained(steps, layout=torch.channels_last):
    """By torch's Adam as it is."""
    known = weights(layout)
    optimizer = torch.optim.Adam(known, lr=0.1, betas=(0.5, 0.999))
    take_steps(optimizer, 0, steps)
    return known, optimizer.state_dict()


def fused(known, **more):
    return fuse(torch.optim.Adam(known, lr=0.1, betas=(0.5, 0.999), **more))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_takes_adams_steps(layout):
    known = weights(layout)
    optimizer = fused(known)
    assert optimizer.param_groups[0]["fused"] is True
    take_steps(optimizer, 0, 5)
    for found, expected in zip(known, trained(5, layout)[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stored", LAYOUTS)
def test_it_goes_on_from_moments_that_were_stored_in_either_layout(stored):
    known, state = weights(), fused(before := weights(stored))
    take_steps(state, 0, 3)
    with torch.no_grad():
        for own, other in zip(known, before, strict=True):
            own.copy_(other)
    optimizer = fused(known)
    optimizer.load_state_dict(state.state_dict())
    assert optimizer.param_groups[0]["fused"] is True
    take_steps(optimizer, 3, 6)
    for found, expected in zip(known, trained(6)[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_is_configured_or_cannot_be_fused_stays_as_it_is():
    assert fused(weights(), fused=False).param_groups[0]["fused"] is False
    assert fused(weights(), foreach=True).param_groups[0]["fused"] is None
    assert fused([torch.zeros(2, device="meta", requires_grad=True)]).param_groups[0]["fused"] is None
    assert fuse(torch.optim.SGD(weights(), lr=0.1)).param_groups[0]["fused"] is None


@pytest.mark.parametrize("automatic", [True, False])
def test_a_detector_fuses_where_lightning_takes_the_gradients(random_resnet18, adam, automatic):
    detector = STPM(backbone=random_resnet18, optimizer=adam, image_size=64)
    detector.automatic_optimization = automatic  # otherwise a detector may make gradients that lie in another order
    assert bool(detector.configure_optimizers().param_groups[0]["fused"]) == automatic
