"""`trainer.precision=auto` is settled by what is faster here, before anything is recorded."""

import pytest
import torch
from omegaconf import OmegaConf

from kdad.engine import precision
from kdad.engine.combinations import check_precision
from kdad.engine.devices import settle_machine
from kdad.errors import UserError


@pytest.mark.parametrize(("factor", "chosen"), [(2.07, "bf16-mixed"), (1.1, "32-true"), (0.07, "32-true")])
def test_bf16_is_chosen_where_it_is_faster(monkeypatch, capsys, factor, chosen):
    monkeypatch.setattr(precision, "measure_bf16", lambda device: factor)
    trainer = OmegaConf.create({"precision": "auto", "accelerator": "cpu"})
    settle_machine(trainer, several=False)
    assert trainer.precision == chosen
    assert chosen in capsys.readouterr().out


def test_what_was_given_is_left_alone(monkeypatch):
    monkeypatch.setattr(precision, "measure_bf16", lambda device: pytest.fail("it was measured"))
    trainer = OmegaConf.create({"precision": "16-mixed", "accelerator": "cpu"})
    settle_machine(trainer, several=False)
    assert trainer.precision == "16-mixed"


def test_the_factor_is_float32s_time_over_bf16s_and_no_random_number_is_drawn(monkeypatch):
    """By a clock that says 3 s for the step in float32 and 2 for the one in bf16, which are run for it."""

    def time_step(step, device):
        step()
        return 2.0 if step.args[-1] else 3.0

    monkeypatch.setattr(precision, "time_step", time_step)
    before = torch.random.get_rng_state()
    assert precision.measure_bf16.__wrapped__("cpu") == 1.5
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_fastest_step_after_the_first_counts(monkeypatch):
    clock = iter([0, 1, 10, 17, 20, 25, 30, 36])  # steps of 1, 7, 5 and 6 seconds
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(clock))
    assert precision.time_step(lambda: None, "cpu") == 5


def test_the_half_is_bf16_and_the_gradients_are_float32():
    images = torch.full((1, 2, 4, 4), 1 / 3, requires_grad=True)
    weights = torch.full((2, 2, 3, 3), 1 / 3, requires_grad=True)
    precision.convolve(images, weights, half=True)
    rounded = weights.grad.clone()
    weights.grad = None
    precision.convolve(images, weights, half=False)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, weights.grad)
    torch.testing.assert_close(rounded, weights.grad, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("trainer", [{"devices": 2}, {"devices": "auto"}, {"devices": 1, "num_nodes": 2}])
def test_several_processes_may_not_choose_each_for_itself(trainer):
    with pytest.raises(UserError, match=r"trainer\.precision=auto"):
        check_precision({"precision": "auto", **trainer})
    check_precision({"precision": "bf16-mixed", **trainer})
    check_precision({"precision": "auto", "devices": 1})
