"""What a plan's sums come to, against the same worked out by hand."""

import pytest
from omegaconf import OmegaConf

from kdad.engine.price import GB, Kept, count_epochs, count_processes, limit, price_job, time_at_once
from kdad.engine.trial import Costs, Images

COSTS = Costs(
    start=9, fixed=1, feature=0.1, prepare=0, step=0.5, epoch=2, validation=0.2, decide=0.3, save=0, begin_test=4,
    test=0.6, write=0.05, levels=(("a", 1000), ("b", 500)), training_bytes=7000, testing_bytes=9000,
    checkpoints={"last": 300, "tested": 100}, picture_bytes=10, file_bytes=40,
)  # fmt: skip
IMAGES = Images(20, 5, 0, 8, True, 1, listing=3, look=0.01, decode=0.2)


def configure(**changes):
    plain = {
        "image_size": 10, "batch_size": 5, "average_epochs": 1, "variants": {}, "pictures": 6, "normalisation": "auto",
        "checkpoint_seconds": 1e9, "tiling": {"size": None}, "backbone": {"name": "n", "weights": None},
        "trainer": {"max_epochs": 3, "devices": 1}, "metrics": {"memory_gb": 4},
        "cache": {"storage": "auto", "memory_gb": 4, "disk_gb": 20},
    }  # fmt: skip
    return OmegaConf.merge(plain, changes)


def price(kept=None, **changes):
    return price_job(configure(**changes), COSTS, IMAGES, "data", kept or Kept())


def test_a_job_is_the_sum_of_its_parts():
    seconds = 1 + 3 + 33 * 0.01 + 33 * 0.2 + 33 * 0.1  # fixed, listing, looks, decoding, features
    seconds += 3 * (2 + 20 * 0.5 + 5 * 0.2) + 5 * 0.3 + 4 + 8 * 0.6 + 6 * 0.05
    found = price()
    assert found.seconds == pytest.approx(seconds)
    assert found.memory == 9000 + 33 * 300 + 8 * 100 + 33 * 1500
    assert found.disk == 400 + 6 * 10 + 40


def test_a_later_job_finds_what_an_earlier_one_of_its_process_has_kept():
    kept = Kept()
    first, second = price(kept), price(kept)
    assert first.seconds - second.seconds == pytest.approx(33 * 0.3)
    other = price_job(configure(), COSTS, IMAGES, "other", kept)
    assert other.seconds == pytest.approx(first.seconds)


def test_where_nothing_is_kept_features_are_made_in_each_epoch():
    dear = price(cache={"storage": "off"})
    assert dear.seconds - price().seconds == pytest.approx(3 * 25 * 0.1 + 5 * 0.1 + 8 * 0.1 - 33 * 0.1)


def test_what_goes_to_disk_is_no_memory():
    kept = Kept()
    on_disk = price(kept, cache={"storage": "disk"})
    assert on_disk.memory == 9000 + 8 * 100 and sum(kept.disk.values()) == 33 * 300 + 33 * 1500


def test_the_least_recently_used_goes_first():
    kept, cache = Kept(), {"storage": "auto", "memory_gb": 10 / GB, "disk_gb": 0}
    for key in "ab":
        kept.fetch({key: 4}, {}, cache)
    kept.fetch({"a": 4}, {}, cache)  # used again
    kept.fetch({"c": 4}, {}, cache)
    assert list(kept.memory) == ["a", "c"]
    assert kept.fetch({"d": 11}, {}, cache) is None


def test_more_epochs_variants_and_tests_are_more_seconds():
    plain = price().seconds
    assert price(trainer={"max_epochs": 5}).seconds - plain == pytest.approx(2 * 13)
    assert price(average_epochs=3).seconds - plain == pytest.approx(2 * (4 + 8 * 0.6))
    assert price(average_epochs=9) == price(average_epochs=3)  # there are no more
    assert price(variants={"v": {}}).seconds - plain == pytest.approx(4 + 8 * 0.6 + 6 * 0.05)
    assert price_job(configure(), COSTS, IMAGES, "data", Kept(), behind=3).seconds - plain == pytest.approx(-3 * 13)


def test_processes_share_the_images():
    both = configure(trainer={"devices": 2, "num_nodes": 2})
    assert count_processes(both) == 4 and count_processes(configure(trainer={"devices": [0, 1]})) == 2
    half = price(trainer={"devices": 2}).seconds - price().seconds
    assert half == pytest.approx(-3 * (10 * 0.5 + 2.5 * 0.2) - 4 * 0.6)


def test_limits_in_batches_or_shares():
    assert [limit(None, 20, 5), limit(0.5, 20, 5), limit(2, 20, 5), limit(9, 20, 5)] == [20, 10, 10, 20]
    assert count_epochs(configure(trainer={"max_epochs": -1, "max_steps": 10}), IMAGES, COSTS) == 3  # of four steps


def test_jobs_at_once():
    assert time_at_once([4, 1, 1, 1, 1], 2) == 4 and time_at_once([1, 1, 4], 2) == 5 and time_at_once([2, 3], 1) == 5
