"""Which file a run's folder stands for."""

import logging

from kdad.inference.files import TESTED, find_checkpoint

CALIBRATED = "checkpoints/tested.calibrated.ckpt"  # as `kdad calibrate` writes it


def test_calibrated_thresholds_that_are_not_taken_are_told_of(tmp_path, caplog):
    (tmp_path / TESTED).parent.mkdir()
    (tmp_path / TESTED).touch()
    assert find_checkpoint(tmp_path) == tmp_path / TESTED and not caplog.records
    (tmp_path / CALIBRATED).touch()
    with caplog.at_level(logging.WARNING):
        assert find_checkpoint(tmp_path) == tmp_path / TESTED
    assert str(tmp_path / CALIBRATED) in caplog.text
    caplog.clear()
    assert find_checkpoint(tmp_path / CALIBRATED) == tmp_path / CALIBRATED and not caplog.records
