"""Two processes on a CPU train together, and their metrics are one process's."""

import json
import shutil

import pytest
import yaml
from PIL import Image

from tests.end_to_end.test_command_line import options
from tests.processes import run_module


@pytest.mark.slow
def test_two_processes(tiny_mvtec, tmp_path):
    """Training goes without find_unused_parameters, test images are shared out without padding."""
    root = tmp_path / "data"
    shutil.copytree(tiny_mvtec, root)
    good = root / "tile/test/good"
    Image.open(good / "000.png").rotate(90).save(good / "003.png")  # 7 images do not divide by two
    folder = tmp_path / "run"
    arguments = [
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.max_epochs=2",
        "batch_size=2",
        "pictures=6",
        "average_epochs=2",
    ]

    def call(*more, module="kdad.run"):
        result = run_module(module, more, tmp_path)
        assert result.returncode == 0, result.stderr
        return result

    first = call(*options(root, *arguments), f"hydra.run.dir={folder}")
    assert first.stdout.count("Results, scores, maps") == 1
    both = json.loads((folder / "results.json").read_text())
    assert both["status"] == "ok" and both["epochs"] == 2
    assert sorted(p.name for p in folder.iterdir() if p.name[0] != ".") == [
        "checkpoints", "config.yaml", "curves.npz", "defects.csv", "log", "maps", "results.json", "scores.csv",
    ]  # fmt: skip
    assert len(list((folder / "maps").iterdir())) == 6
    assert len((folder / "scores.csv").read_text().splitlines()) == 8

    tested = f"ckpt_path={folder / 'checkpoints/tested.ckpt'}"
    # Another trainer than the stored one: its devices are not the stored ones either.
    call(tested, "trainer=default", f"hydra.run.dir={tmp_path / 'one'}", module="kdad.evaluate")
    one = json.loads((tmp_path / "one" / "results.json").read_text())
    used = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())["trainer"]
    assert (used["devices"], used["strategy"], used["max_epochs"]) == (1, "auto", 2)
    assert both["average_epochs"] == one["average_epochs"] == 2
    for metric in ("image_auroc", "pixel_auroc", "pro", "image_ap", "pixel_f1_max", "pro_std"):
        assert both[metric] == pytest.approx(one[metric], abs=1e-6)
    assert not [p.name for p in tmp_path.iterdir() if p.name not in ("data", "run", "one")]
