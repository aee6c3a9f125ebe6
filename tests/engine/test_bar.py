"""The progress bar's texts."""

from kdad.engine.bar import ProgressBar


def test_a_line_fits_into_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, column, *_ = ProgressBar().configure_columns(None)
    texts = ("Epoch 100/200", "120/120", "0:00:00 \u2022 0:00:00", "val_loss: 2.671 loss: 2.800")
    assert column.bar_width + sum(len(text) + 1 for text in texts) <= 80
