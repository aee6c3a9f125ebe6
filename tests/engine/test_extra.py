"""Metrics of one's own as a test updates them, against the same counted by hand; and what is said of those that fail."""

import math
from types import SimpleNamespace

import pytest
import torch
from torchmetrics import Metric

from kdad.engine.combinations import list_impossible, list_impossible_to_test
from kdad.engine.extra import ExtraMetrics, create_extra, read_number, try_out
from kdad.engine.test import average
from kdad.errors import UserError
from kdad.settings.checks import check_configuration, list_bad_keys
from kdad.settings.compose import compose, resolve
from kdad.settings.roles import config_hash, find_differences, may_retest
from tests.plugins.share import Share


class Kept(Metric):
    """Keeps what comes, to look at."""

    def __init__(self):
        super().__init__()
        self.given = []

    def update(self, *given):
        self.given.append(given)

    def compute(self):
        return torch.tensor([1.0])


class Fails(Share):
    def update(self, maps, masks, scores, labels):
        if len(maps) == 1:
            raise RuntimeError("one\nimage")


class Several(Share):
    def compute(self):
        return torch.zeros(3)


class NoMetric:
    """Something else."""


HERE, SHARE = __name__, "{_target_: tests.plugins.share.Share}"
BASE = ("model=rd", "dataset=mvtec", "category=grid")


def configure(target, *more):
    node = target if "{" in target else f"{{_target_: {HERE}.{target}}}"
    return compose(*BASE, "image_size=[6,5]", f"+metrics.extra.mine={node}", *more)


def make_batches():
    generator = torch.Generator().manual_seed(0)
    maps, labels = torch.rand(5, 1, 6, 5, generator=generator), torch.tensor([0, 1, 0, 1, 1])
    masks = (torch.rand(maps.shape, generator=generator) > 0.5) & labels.bool()[:, None, None, None]
    return maps, masks, maps.amax(dim=(1, 2, 3)), labels


def test_it_is_what_all_images_at_once_give():
    maps, masks, scores, labels = batch = make_batches()
    before = [part.clone() for part in batch]
    extra = ExtraMetrics({"share": Share(0.7)})
    for first, last in ((0, 2), (2, 5)):
        extra.add(*(part[first:last] for part in batch))
    expected = sum(float(v) > 0.7 for v in maps[masks]) / int(masks.sum())
    assert extra.compute() == {"extra_share": pytest.approx(expected)}
    assert all(map(torch.equal, batch, before))  # though it changes what it is given
    extra.begin()
    extra.add(*(part[:2] for part in batch))
    alone = maps[:2][masks[:2]]
    assert extra.compute()["extra_share"] == pytest.approx(float((alone > 0.7).double().mean()))


def test_types_are_those_that_are_promised():
    maps, masks, scores, labels = make_batches()
    extra = ExtraMetrics({"kept": Kept()})
    extra.add(maps.bfloat16(), masks.byte(), scores.double(), labels.int())
    extra.add(maps.double(), None, scores, labels.bool())
    (first, second), types = extra.metrics["kept"].given, (torch.float32, torch.bool, torch.float64, torch.int64)
    assert tuple(part.dtype for part in first) == types and [part.shape[0] for part in first] == [5] * 4
    assert second[0].dtype == torch.float64 and second[1] is None and second[3].tolist() == [0, 1, 0, 1, 1]
    assert extra.compute() == {"extra_kept": 1.0}


def test_one_that_fails_costs_no_other(caplog):
    batch = make_batches()
    extra = ExtraMetrics({"fails": Fails(), "share": Share(), "several": Several()})
    for image in range(5):
        extra.add(*(part[image : image + 1] for part in batch))
    found = extra.compute()
    assert found["extra_fails"] is None and found["extra_fails_reason"] == "update() raised RuntimeError: one image"
    assert len([r for r in caplog.records if "metrics.extra.fails has no value" in r.getMessage()]) == 1
    assert 0 < found["extra_share"] < 1 and found["extra_several"] is None
    assert "must return one number, and returned Tensor of shape (3,)" in found["extra_several_reason"]


def test_nan_and_nothing_are_null_with_a_reason():
    maps, masks, scores, labels = make_batches()
    extra = ExtraMetrics({"share": Share()})
    assert extra.compute() == {"extra_share": None, "extra_share_reason": "no image in the test set"}
    extra.add(maps[:1], masks[:1], scores[:1], labels[:1])  # a normal image has no anomalous pixel
    assert extra.compute() == {"extra_share": None, "extra_share_reason": "compute() returned nan"}
    assert ExtraMetrics().compute() == {}


def test_an_epoch_without_a_value_leaves_the_mean_without():
    lacking = {"extra_a": None, "extra_a_reason": "compute() returned nan"}
    assert average([lacking, {"extra_a": 0.5}]) == {**lacking, "average_epochs": 2}
    found = average([{"extra_a": 0.25}, {"extra_a": 0.75}])
    assert found["extra_a"] == 0.5 and found["extra_a_std"] == pytest.approx(math.sqrt(0.125))


@pytest.mark.parametrize("value", [1, 0.5, True, torch.tensor(0.5), torch.tensor([[2]])])
def test_one_number_is_a_number(value):
    assert read_number(value) == float(value)


@pytest.mark.parametrize("value", [None, "a", {"a": 1}, [1], torch.zeros(2), torch.zeros(0)])
def test_anything_else_is_none(value):
    with pytest.raises(ValueError, match="one number"):
        read_number(value)


def test_it_is_tried_before_training():
    masked, bare = SimpleNamespace(has_masks=True), SimpleNamespace(has_masks=False)
    state = torch.random.get_rng_state()
    try_out(configure(SHARE), masked)
    try_out(compose(*BASE), masked)
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(UserError, match=r"metrics.extra.mine: .*Share.update\(.*TypeError: .*masks is None"):
        try_out(configure(SHARE), bare)
    with pytest.raises(UserError, match=r"Several.compute\(\) raised ValueError: it must return one number"):
        try_out(configure("Several"), masked)
    with pytest.raises(UserError, match=r"BinaryAUROC.update\(maps, masks, scores, labels\) raised TypeError"):
        try_out(configure("{_target_: torchmetrics.classification.BinaryAUROC}"), masked)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (f"{{_target_: {HERE}.NoMetric}}", "metrics.extra.mine: .*NoMetric is no torchmetrics.Metric"),
        (f"{{_target_: {HERE}.Absent}}", "metrics.extra.mine._target_: .*Absent cannot be imported"),
        ("{_target_: no_such_module.Dice}", "metrics.extra.mine._target_: no_such_module.Dice cannot be imported"),
        (
            "{_target_: tests.plugins.share.Share, treshold: 1}",
            "metrics.extra.mine.treshold: .*no such argument. Nearest: thresh",
        ),
        (f"{{_target_: {HERE}.Kept, x: 1}}", "metrics.extra.mine.x: .*takes no such argument"),
    ],
)
def test_what_cannot_be_created_is_refused(node, said):
    cfg = configure(node)
    with pytest.raises(UserError, match=said) as caught:
        check_configuration(cfg, "run")
        create_extra(cfg)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    ["+metrics.extra.mine=a.B", "+metrics.extra.mine={target: a.B}", "+metrics.extra.a_std={_target_: a.B}",
     "+metrics.extra.a-b={_target_: a.B}", "+metrics.extra.a_reason={_target_: a.B}", "metrics.extra=1",
     "metrics.extra=null"],
)  # fmt: skip
def test_what_is_no_metric_s_name_and_class_is_refused(override):
    bad = list_bad_keys(compose(*BASE, override), "run")
    assert "_target_: <module>.<class>" in " ".join(bad.values())


def test_pixels_that_do_not_count_are_refused():
    cfg = configure(SHARE, "dataset.roi=[0,0,0.5,0.5]")
    for list_problems in (list_impossible, list_impossible_to_test):
        (said,) = list_problems(cfg)
        assert said.startswith("metrics.extra.mine: dataset.roi=")
        assert list_problems(configure(SHARE)) == list_problems(compose(*BASE)) == []


def test_it_makes_no_other_configuration():
    with_it, without = resolve(configure(SHARE)), resolve(compose(*BASE, "image_size=[6,5]"))
    assert config_hash(with_it) == config_hash(without)
    del without["metrics"]["extra"]  # as of before there was the key
    assert config_hash(without) == config_hash(with_it) and find_differences(without, with_it) == {}
    assert may_retest("metrics.extra.mine._target_", ())
