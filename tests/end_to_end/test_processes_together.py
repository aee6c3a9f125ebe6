"""Several processes on a CPU: the numbers of one, going on with more or fewer of them, and one that fails.

They are started as `torchrun` starts them, by a server that has imported everything: see `tests/processes.py`.
"""

import json
import shutil

import pytest
from PIL import Image

from kdad.engine.checkpoint import Checkpoint
from tests.end_to_end.test_command_line import options
from tests.processes import run_module, run_processes

pytestmark = pytest.mark.slow
METRICS = ("image_auroc", "pixel_auroc", "pro", "image_ap", "pixel_f1_max", "image_threshold", "pixel_threshold")
FAILING = """
from kdad.errors import UserError
from tests.plugins.plain import Plain

class Failing(Plain):
    def training_loss(self, batch):
        if self.global_rank == {rank} and self.global_step == 1:
            raise UserError("this process has met a wall")
        return super().training_loss(batch)
"""


@pytest.fixture(scope="module")
def root(tiny_mvtec, tmp_path_factory):
    """Sixteen images to train on, and seven to test, which divide by no number of processes."""
    root = tmp_path_factory.mktemp("data") / "mvtec"
    shutil.copytree(tiny_mvtec, root)
    for path in sorted((root / "tile/train/good").iterdir()):
        Image.open(path).rotate(90).save(path.with_name(f"turned_{path.name}"))
    Image.open(root / "tile/test/good/000.png").rotate(90).save(root / "tile/test/good/003.png")
    return root


def list_options(root, model, folder, count=1, **more):
    given = {
        "val_fraction": 0.3 * (model == "stpm"),
        "batch_size": 2,
        "pictures": 0,
        "logger": "none",
        "trainer.max_epochs": 1,
        **more,
    }
    together = ["trainer=ddp", f"trainer.devices={count}"] if count > 1 else ["trainer=default"]
    written = [f"{key}={value}" for key, value in given.items()]
    return [*options(root, model=model), *together, *written, f"hydra.run.dir={folder}"]


def run(root, model, folder, count=1, **more):
    """Run in so many processes; return results.json."""
    arguments = list_options(root, model, folder, count, **more)
    if count == 1:
        done = run_module("kdad.run", arguments, folder.parent)
        ended = [(done.returncode, done.stderr)]
    else:
        ended = run_processes(count, "kdad.run", arguments, folder.parent)
    assert [status for status, _ in ended] == [0] * count, "\n".join(said for _, said in ended)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(("model", "count"), [("stpm", 2), ("mkd", 2), ("rd", 4), ("dskd", 4)])
def test_they_come_to_one_processes_numbers(root, tmp_path, model, count):
    """One process takes the same thresholds from the weights of several, and tests them to the same metrics."""
    together = run(root, model, tmp_path / "together", count)
    last = {"ckpt_path": tmp_path / "together/checkpoints/last.ckpt"}
    alone = run(root, model, tmp_path / "alone", **last)  # its one epoch is over: thresholds and test are made anew
    assert {key: together[key] for key in METRICS} == pytest.approx({key: alone[key] for key in METRICS}, abs=1e-6)


@pytest.mark.parametrize("model", ["mkd", "dskd"])
def test_more_and_fewer_go_on(root, tmp_path, model):
    """One process, then four, then two; those detectors that keep statistics of the training images."""
    run(root, model, tmp_path / "1")
    for epochs, before, count in ((2, 1, 4), (3, 2, 2)):
        more = {"ckpt_path": tmp_path / f"{before}/checkpoints/last.ckpt", "trainer.max_epochs": epochs}
        found = run(root, model, tmp_path / str(epochs), count, **more)
        assert found["status"] == "ok" and found["epochs"] == epochs


def test_lambda_is_of_all_images(root, tmp_path):
    """MKD's weight comes from the errors on the training images, however many processes look at them."""
    found = []
    for count in (1, 2):
        run(root, "mkd", tmp_path / str(count), count)
        content = Checkpoint.load(tmp_path / str(count) / "checkpoints/tested.ckpt").content
        found.append(content["state_dict"]["direction_weight"].item())
    assert found[1:] == pytest.approx([found[0]], rel=1e-6)


def test_too_few_images_are_told_of(root, tmp_path):
    arguments = list_options(root, "stpm", tmp_path / "run", 4, val_fraction=0.1)
    for status, said in run_processes(4, "kdad.run", arguments, tmp_path):
        assert status == 2 and "4 processes, and images" in said and "Traceback" not in said


def test_one_that_fails_ends_all(root, tmp_path):
    """Started as a user does: the command ends, with the error on the terminal and in results.json."""
    (tmp_path / "failing.py").write_text(FAILING.format(rank=1))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/failing.yaml").write_text(
        "# @package _global_\nmodel: {_target_: failing.Failing, name: failing}\n"
        "optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 0.001}\ntrainer: {max_epochs: 3}\n"
    )
    arguments = list_options(root, "failing", tmp_path / "run", 2)
    # The other process would wait for the failed one for half an hour.
    done = run_module("kdad.run", ["--config-dir", tmp_path, *arguments], tmp_path, timeout=300)
    assert done.returncode != 0
    assert "this process has met a wall" in done.stderr
    assert json.loads((tmp_path / "run/results.json").read_text())["status"] == "failed"
