"""The progress bar's texts."""

from types import SimpleNamespace

import pytest

from kdad.engine.bar import ProgressBar


@pytest.mark.parametrize(("last", "text"), [(30, "Epoch 1/30"), (-1, "Epoch 1"), (None, "Epoch 1")])
def test_epochs_are_counted_from_one(last, text):
    bar = ProgressBar()
    bar._trainer = SimpleNamespace(max_epochs=last)
    assert bar._get_train_description(0) == text


def test_a_line_fits_into_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, column, *_ = ProgressBar().configure_columns(None)
    texts = ("Epoch 100/200", "120/120", "0:00:00 \u2022 0:00:00", "val_loss: 2.671 loss: 2.800")
    assert column.bar_width + sum(len(text) + 1 for text in texts) <= 80
