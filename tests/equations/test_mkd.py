"""Every equation of MKD against a hand-computed value, a slow loop, and gradcheck."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from skimage.morphology import disk

from kdad.models.mkd import (
    LOSSES,
    SHORTEST,
    direction_losses,
    input_gradient,
    localization_map,
    opening,
    scale_per_image,
    total_loss,
    value_losses,
)
from tests.equations.test_rd import pyramids
from tests.tolerances import CLOSE

EXACT = CLOSE[torch.float64]


def level(*values):
    """One image, one level, one position."""
    return [torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)]


@pytest.mark.equation("mkd", 1)
def test_value_loss_by_hand():
    # (1, 2, 3, 0) - (0, 0, 5, 0): (1 + 4 + 4 + 0) / 4.
    assert value_losses(level(1, 2, 3, 0), level(0, 0, 5, 0)).tolist() == [[9 / 4]]


@pytest.mark.equation("mkd", 1)
def test_value_losses_against_a_loop():
    teacher, student = pyramids()
    found = value_losses(teacher, student)
    assert found.shape == (2, 2)  # levels, images: unreduced
    for i, (t, s) in enumerate(zip(teacher, student, strict=True)):
        for b in range(2):
            squares = [(t[b][j].item() - s[b][j].item()) ** 2 for j in np.ndindex(*t.shape[1:])]
            assert found[i, b].item() == pytest.approx(sum(squares) / len(squares), rel=1e-12)


@pytest.mark.equation("mkd", 3)
def test_direction_loss_of_the_papers_own_example():
    """Sec. 3.1 after Eq. (3): "L_dir is 1 for a_1, and is 0 for a_2", while L_val is the same for both."""
    e, root = 0.7, math.sqrt(2)
    target, a1, a2 = level(0, e, 0, 0), level(0, 0, e, 0), level(0, (root + 1) * e, 0, 0)
    assert direction_losses(target, a1).item() == 1
    assert direction_losses(target, a2).item() == pytest.approx(0, abs=1e-12)
    assert value_losses(target, a1).item() == pytest.approx(value_losses(target, a2).item(), rel=1e-12)


@pytest.mark.equation("mkd", 3)
def test_direction_loss_by_hand():
    # (3, 4) and (4, 3): 1 - 24 / 25; opposite vectors: 2.
    assert direction_losses(level(3, 4), level(4, 3)).item() == pytest.approx(0.04, rel=1e-12)
    assert direction_losses(level(3, 4), level(-6, -8)).item() == pytest.approx(2, rel=1e-12)


@pytest.mark.equation("mkd", 3)
def test_direction_losses_against_a_loop():
    """One cosine for the whole level, over channels and positions together."""
    teacher, student = pyramids()
    found = direction_losses(teacher, student)
    assert found.shape == (2, 2)
    for i, (t, s) in enumerate(zip(teacher, student, strict=True)):
        for b in range(2):
            a, c = ([x[b][j].item() for j in np.ndindex(*t.shape[1:])] for x in (t, s))
            dot = sum(x * y for x, y in zip(a, c, strict=True))
            expected = 1 - dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in c)))
            assert found[i, b].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("mkd", 3)
@pytest.mark.parametrize("length", [0.0, SHORTEST / 10, SHORTEST * 10])
def test_direction_losses_near_zero(length):
    """A zero vector is at 1 from everything; gradients are those of the definition, and bounded."""
    (teacher, _), (student, _) = pyramids()
    unit = student / student.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    student = (unit * length).requires_grad_()
    loss = direction_losses([teacher], [student])
    if length == 0:
        assert loss.tolist() == [[1.0, 1.0]]
    loss.sum().backward()
    assert 0 < student.grad.flatten(1).norm(dim=1).max() <= 1.001 / SHORTEST
    assert torch.autograd.gradcheck(lambda s: direction_losses([teacher], [s]), student.detach().requires_grad_())
    # Two zero vectors, in single precision: the definition holds, and Adam gets finite numbers.
    zero = torch.zeros(1, 2, 2, 2, requires_grad=True)
    nothing = direction_losses([torch.zeros(1, 2, 2, 2)], [zero])
    nothing.sum().backward()
    assert nothing.item() == 1 and torch.equal(zero.grad, torch.zeros_like(zero))


@pytest.mark.equation("mkd", 4)
def test_total_loss_by_hand():
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # levels by images
    direction = torch.tensor([[0.5, 0.25], [1.0, 0.5]])
    assert total_loss(value, direction, 2.0).tolist() == [1 + 3 + 2 * 1.5, 2 + 4 + 2 * 0.75]
    assert LOSSES["val"](value, direction, 2.0).tolist() == [4, 6]
    assert LOSSES["dir"](value, direction, 2.0).tolist() == [1.5, 0.75]


def total(teacher, student):
    return total_loss(value_losses(teacher, student), direction_losses(teacher, student), 3.0)


@pytest.mark.equation("mkd", 4)
def test_the_released_codes_form_has_the_same_minimum():
    """direction + lamda * value is Eq. (4) divided by lambda, at lambda = 1 / lamda: 2 for their 0.5, 100 for 0.01."""
    teacher, student = pyramids()
    value, direction = value_losses(teacher, student), direction_losses(teacher, student)
    for lamda, weight in ((0.5, 2.0), (0.01, 100.0)):
        theirs = direction.sum(0) + lamda * value.sum(0)
        torch.testing.assert_close(total_loss(value, direction, weight) * lamda, theirs, **EXACT)


@pytest.mark.equation("mkd", 4)
@pytest.mark.parametrize("loss", [value_losses, direction_losses, total])
def test_gradients(loss):
    teacher, student = pyramids(requires_grad=True)
    teacher = [t.detach() for t in teacher]
    assert torch.autograd.gradcheck(lambda *s: loss(teacher, list(s)), student)


@pytest.mark.equation("mkd", 4)
def test_doubling_the_batch_with_copies_leaves_the_loss():
    teacher, student = pyramids()
    twice = total([torch.cat([t, t]) for t in teacher], [torch.cat([s, s]) for s in student])
    torch.testing.assert_close(total(teacher, student).mean(), twice.mean(), **EXACT)


@pytest.mark.equation("mkd", 5)
def test_input_gradient_by_hand():
    """Each image's own loss, not a mean over the batch: the loss sum(w x^2) of image b has the gradient 2 w x."""
    x = torch.rand(3, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.rand(3, 4, 4, dtype=torch.float64)
    found = input_gradient((w * x.square()).sum(dim=(1, 2, 3)), x)
    torch.testing.assert_close(found, (2 * w * x).detach(), **EXACT)
    assert x.grad is None


@pytest.mark.equation("mkd", 6)
@pytest.mark.parametrize("shape", [(17, 12), (3, 9), (1, 1), (2, 2)])
def test_opening_is_scipys_with_the_3x3_ellipse(shape):
    maps = np.random.default_rng(0).normal(size=(4, *shape))
    found = opening(torch.from_numpy(maps))
    assert disk(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    for m, f in zip(maps, found, strict=True):
        assert np.array_equal(f.numpy(), scipy.ndimage.grey_opening(m, footprint=disk(1)))


@pytest.mark.equation("mkd", 6)
def test_opening_against_a_loop():
    """Erosion: the lowest of a pixel and its four neighbours; dilation: the highest; nothing outside counts."""
    m = np.random.default_rng(1).normal(size=(6, 5))

    def neighbours(array, choose):
        out = np.zeros_like(array)
        for i, j in np.ndindex(*array.shape):
            plus = [(i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
            out[i, j] = choose(array[a, b] for a, b in plus if 0 <= a < 6 and 0 <= b < 5)
        return out

    assert np.array_equal(opening(torch.from_numpy(m)[None])[0].numpy(), neighbours(neighbours(m, min), max))


@pytest.mark.equation("mkd", 6)
def test_opening_removes_small_spots_and_keeps_large_ones():
    m = torch.zeros(1, 12, 12)
    m[0, 2, 2] = 9.0
    m[0, 6:9, 6:9] = 1.0
    opened = opening(m)
    assert opened[0, 2, 2] == 0 and opened[0, 7, 6:9].tolist() == [1, 1, 1] and opened[0, 6:9, 7].tolist() == [1, 1, 1]


@pytest.mark.equation("mkd", 6)
@pytest.mark.parametrize("sigma", [0.0, 4.0])
def test_localization_map_against_scipy(sigma):
    maps = np.random.default_rng(0).random((2, 24, 24))
    found = localization_map(torch.from_numpy(maps), sigma)
    for m, f in zip(maps, found, strict=True):
        smooth = scipy.ndimage.gaussian_filter(m, sigma) if sigma else m
        expected = scipy.ndimage.grey_opening(smooth, footprint=disk(1))
        torch.testing.assert_close(f, torch.from_numpy(expected), **EXACT)


def test_scaling_per_image_against_numpy():
    maps = np.random.default_rng(0).random((3, 10, 10)) * np.array([1, 50, 1e-9])[:, None, None]
    found = scale_per_image(torch.from_numpy(maps))
    for m, f in zip(maps, found, strict=True):
        expected = np.clip((m - m.min()) / (np.percentile(m, 99) - m.min()), 0, 1)
        torch.testing.assert_close(f, torch.from_numpy(expected), **EXACT)
    assert torch.equal(scale_per_image(torch.full((1, 4, 4), 3.0)), torch.zeros(1, 4, 4))
