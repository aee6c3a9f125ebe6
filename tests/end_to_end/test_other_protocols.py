"""protocol=: a run counted by other protocols beside kdad's own numbers."""

import json

import pytest

from kdad.errors import UserError
from kdad.evaluate import main as evaluate
from tests.end_to_end.test_trust import again

SEVEN = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pro")
SHORT = ["model=statistics", "pictures=1", "optimizer.lr=0.01"]


def pick(results, protocol=""):
    return [results[metric + protocol] for metric in SEVEN]


def test_a_run_an_evaluation_and_ones_own_numbers_unchanged(start, command, tmp_path):
    plain, folder = start(*SHORT, folder="plain")
    results, _ = start(*SHORT, "protocol=[rd_code,mkd_code,patchcore_code]", folder="counted")
    assert pick(results) == pick(plain) and results["config_hash"] == plain["config_hash"]
    assert not [key for key in plain if "@" in key]
    names = {key.partition("@")[2] for key in results if "@" in key}
    assert {"rd_code", "mkd_code", "patchcore_code"} == {name.removesuffix("_reason") for name in names}
    # MKD's leaves out pixels alone.
    assert pick(results, "@mkd_code")[:3] == pick(plain)[:3] and results["pro@mkd_code"] != results["pro"]
    found, _ = again(start, folder, *SHORT, "protocol=rd_code")
    assert pick(found, "@rd_code") == pick(results, "@rd_code") and pick(found) == pick(plain)


def test_ones_own_that_changes_nothing_has_the_same_numbers(command, tiny_mvtec, tmp_path):
    """To the bit, from masks read anew; from the start, and in an evaluation."""
    (tmp_path / "mine/protocols").mkdir(parents=True)
    (tmp_path / "mine/protocols/same.yaml").write_text("# as kdad\n")
    given = [
        "model=stpm", "dataset=mvtec", f"dataset.root={tiny_mvtec}", "category=tile", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k",
        "backbone.pretrained=false", "image_size=48", "batch_size=4", "trainer.max_epochs=1", "pictures=0",
        "hydra.run.dir=first",
    ]  # fmt: skip
    own = ["--config-dir", str(tmp_path / "mine"), "protocol=[same,rd_code]"]
    assert command(*given, *own) == 0
    assert command("ckpt_path=first", *own, "hydra.run.dir=second", main=evaluate) == 0
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("first", "second"))
    assert pick(first, "@same") == pick(first) == pick(second) == pick(second, "@same")
    assert pick(first, "@rd_code") == pick(second, "@rd_code") and first["protocol@same"] == ""


def test_masks_move_with_corrupted_images(start, tmp_path):
    _, folder = start(*SHORT, folder="plain")
    with_field = ["protocol=mkd_code", "metrics.pixels=anomalous_images"]  # both count the same
    found, _ = again(start, folder, *SHORT, *with_field, "corruption=shift", "severity=3")
    assert found["corruption"] == "shift" and pick(found, "@mkd_code") == pick(found)


def test_the_best_epoch_is_at_least_the_mean_and_one_of_them(start):
    long = [*SHORT, "trainer.max_epochs=3", "average_epochs=2"]
    each = [start(*SHORT, f"trainer.max_epochs={n}", "protocol=rd_code", folder=str(n))[0] for n in (2, 3)]
    results, _ = start(*long, "protocol=[rd_code,rdpp_code]", folder="long")
    assert pick(results, "@rdpp_code") in [pick(one, "@rd_code") for one in each]
    for metric in SEVEN:
        expected = sum(one[f"{metric}@rd_code"] for one in each) / 2
        assert results[f"{metric}@rd_code"] == pytest.approx(expected, abs=1e-12)
    three = [sum(values[f"{metric}{name}"] for metric in ("image_auroc", "pixel_auroc", "pro"))
             for values, name in ((results, "@rdpp_code"), (results, "@rd_code"))]  # fmt: skip
    assert three[0] >= three[1] and "image_auroc@rd_code_std" not in results


def test_refused_before_training(start, tmp_path):
    with pytest.raises(UserError, match="protocol=rd_cod: no such file"):
        start("protocol=rd_cod")
    assert not (tmp_path / "run/checkpoints").exists()
