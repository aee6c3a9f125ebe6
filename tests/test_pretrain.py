"""A teacher of one's own: tiny copies of torchvision's four layouts are trained on, and the file is a teacher."""

import hashlib
import json
import pickle
import signal
import struct

import hydra
import numpy as np
import pytest
import scipy.io
import torch
from hydra.errors import HydraException
from PIL import Image
from safetensors import safe_open
from torchvision import datasets

from kdad.data.images import resize_image
from kdad.engine.pretraining import Classifier
from kdad.errors import UserError
from kdad.pretrain import LabelledImages, train_teacher
from kdad.settings.compose import explain, find_home, list_choices
from kdad.teacher import Teacher
from tests.processes import run_module

pytestmark = pytest.mark.slow  # processes of their own, or many seconds

SETS = ["mnist", "cifar10", "cifar100", "svhn"]


def pictures(count, size, colours, seed):
    """Noise, its left half bright for even labels and dark for odd ones; labels 0, 1, 2, ... below 10."""
    generator = np.random.default_rng(seed)
    images, labels = generator.integers(90, 110, (count, size, size, colours), dtype=np.uint8), np.arange(count) % 10
    images[:, :, : size // 2] = np.where(labels % 2, 10, 240)[:, None, None, None]
    return images, labels


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """Each set, tiny, in its layout; checksums are those of the tiny files."""

    def md5(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    raw = tmp_path / "mnist/MNIST/raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 40), ("t10k", 20)):
        images, labels = pictures(count, 28, 1, count)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 2051, count, 28, 28) + images.tobytes())
        content = struct.pack(">ii", 2049, count) + labels.astype(np.uint8).tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(content)

    def cifar(source, folder, parts, key, meta, names):
        place = tmp_path / folder
        place.mkdir(parents=True)
        for number, name in enumerate(parts):
            images, labels = pictures(20, 32, 3, number)
            rows = images.transpose(0, 3, 1, 2).reshape(20, -1)
            (place / name).write_bytes(pickle.dumps({"data": rows, key: labels.tolist()}))
        (place / meta).write_bytes(pickle.dumps({names: [str(i) for i in range(10)]}))
        listed = [[name, md5(place / name)] for name in parts]
        monkeypatch.setattr(source, "train_list", listed[:-1])
        monkeypatch.setattr(source, "test_list", listed[-1:])
        monkeypatch.setattr(source, "meta", {"filename": meta, "key": names, "md5": md5(place / meta)})

    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    cifar(datasets.CIFAR10, "cifar10/cifar-10-batches-py", batches, "labels", "batches.meta", "label_names")
    cifar(datasets.CIFAR100, "cifar100/cifar-100-python", ["train", "test"], "fine_labels", "meta", "fine_label_names")

    (tmp_path / "svhn").mkdir()
    for name, count in (("train", 40), ("test", 20)):
        images, labels = pictures(count, 32, 3, count)
        path = tmp_path / "svhn" / f"{name}_32x32.mat"
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        listed = {**datasets.SVHN.split_list, name: ["", path.name, md5(path)]}
        monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    return tmp_path


def compose(root, name, *overrides):
    small = [
        "image_size=32", "batch_size=8", "trainer.max_epochs=1", "trainer.limit_train_batches=2",
        "trainer.accelerator=cpu",
    ]  # fmt: skip
    with hydra.initialize_config_dir(str(find_home("pretrain")), version_base="1.3"):
        return hydra.compose("pretrain", [f"dataset={name}", f"dataset.root={root / name}", *small, *overrides])


def test_the_four_sets_are_there():
    assert list_choices("dataset", "pretrain") == sorted(SETS)
    assert "vgg16" in list_choices("backbone", "pretrain")


@pytest.mark.parametrize("name", SETS)
def test_its_file_is_a_teacher(roots, tmp_path, name):
    file, facts = train_teacher(compose(roots, name), tmp_path / "run")
    assert file.name == f"resnet18_{name}.safetensors"
    assert json.loads(file.with_suffix(".json").read_text()) == facts
    assert (facts["dataset"], facts["epochs"], facts["steps"], facts["n_test"]) == (name, 1, 2, 20)
    assert facts["classes"] == (100 if name == "cifar100" else 10) and 0 <= facts["accuracy"] <= 1
    teacher = Teacher("resnet18.tv_in1k", weights=str(file), levels=[1, 2, 3], image_size=64)
    assert teacher.fingerprint == facts["fingerprint"]
    assert (list(teacher.mean), list(teacher.std)) == (facts["mean"], facts["std"])
    with safe_open(file, "pt") as stored:
        assert stored.metadata() == {key: str(value) for key, value in facts.items()}
        assert torch.equal(stored.get_tensor("layer3.0.conv1.weight"), teacher.body.layer3[0].conv1.weight)
        assert stored.get_tensor("fc.weight").shape == (facts["classes"], 512)


def test_a_seed_gives_the_same_weights_and_another_one_others(roots, tmp_path):
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)  # what was drawn before does not matter
        file, facts = train_teacher(compose(roots, "cifar10", f"seed={seed}"), tmp_path / name)
        runs[name] = facts["fingerprint"], facts["loss"], file.read_bytes()[-4096:]
    assert runs["a"] == runs["b"]
    assert runs["a"][0] != runs["c"][0]


def test_ctrl_c_is_an_interrupt(roots, tmp_path, monkeypatch):
    """Of which Lightning makes the end of the process, with status 1."""
    monkeypatch.setattr(Classifier, "training_step", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_teacher(compose(roots, "mnist"), tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_learns(roots, tmp_path):
    """Two classes, bright on the left and dark on the left."""
    raw = roots / "mnist/MNIST/raw"
    for name in ("train", "t10k"):
        path = raw / f"{name}-labels-idx1-ubyte"
        content = path.read_bytes()
        path.write_bytes(content[:8] + bytes(label % 2 for label in content[8:]))
    steps = ["dataset.classes=2", "trainer.max_epochs=4", "trainer.limit_train_batches=null", "dataset.crop=0"]
    _, facts = train_teacher(compose(roots, "mnist", *steps), tmp_path / "run")
    assert facts["accuracy"] == 1 and facts["loss"] < 0.5 and facts["steps"] == 20


def test_images_are_those_of_the_detectors_and_augmentation_is_for_training(roots):
    """RGB in [0, 1], enlarged as every data set of kdad.run is."""
    common = {"name": "mnist", "classes": 10, "root": str(roots / "mnist"), "source": datasets.MNIST, "download": False}
    parts = {"train": {"train": True}, "test": {"train": False}}
    data = LabelledImages(**common, **parts, crop=4, flip=False, image_size=64, batch_size=5, seed=0)
    data.setup()
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (5, 3, 64, 64) and labels.tolist() == [0, 1, 2, 3, 4]
    raw, _ = pictures(20, 28, 1, 20)
    expected = resize_image(Image.fromarray(raw[3, ..., 0]).convert("RGB"), 64).float() / 255
    torch.testing.assert_close(images[3], expected, rtol=0, atol=1.01 / 255)
    assert not torch.equal(data.train_set[0][0], data.train_set[0][0])
    assert torch.equal(data.test_set[0][0], data.test_set[0][0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.root=nowhere"], "cannot read its train images in nowhere.*dataset.download=true"),
        (["dataset.classes=3"], "expected labels from 0 to 2"),
        (["backbone.name=resnet81"], "timm has no such model. Nearest"),
        (["optimizer.lr=1e30", "trainer.limit_train_batches=5"], "Training diverged: loss = "),
        (["+dataset.colour=red"], "dataset.colour: kdad.pretrain.LabelledImages takes no such argument"),
        (["+epochs=3"], "epochs: no such key"),
        (["image_size=0"], "image_size=0: give a whole number"),
        (["backbone.name=inception_v3", "image_size=16"], "image_size=16 does not suit inception_v3"),
    ],
)
def test_bad_input_leaves_no_file(roots, tmp_path, overrides, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        train_teacher(compose(roots, "mnist", *overrides), tmp_path / "run")
    assert not list(tmp_path.glob("run/*.safetensors"))


def test_a_failed_download_says_what_to_do(roots, tmp_path, monkeypatch):
    def unreachable(self):
        raise RuntimeError("Error downloading train-images")

    monkeypatch.setattr(datasets.MNIST, "download", unreachable)
    with pytest.raises(UserError, match="failed to download .*Error downloading train-images\nWithout a network, copy"):
        train_teacher(compose(roots, "mnist", "dataset.download=true"), tmp_path / "run")


@pytest.mark.parametrize("name", ["mvtec", "zoo"])
def test_a_set_it_does_not_have_is_answered_with_those_it_has(roots, tmp_path, name):
    with pytest.raises((UserError, HydraException)) as caught:
        train_teacher(compose(roots, name), tmp_path)
    assert ", ".join(sorted(SETS)) in explain(caught.value, "pretrain")


@pytest.mark.slow
def test_from_the_command_line(roots):
    arguments = [
        "dataset=mnist", f"dataset.root={roots / 'mnist'}", "image_size=32", "backbone=efficientnet_lite0",
        "trainer.max_epochs=1", "trainer.limit_train_batches=1", "batch_size=4", "hydra.run.dir=out",
    ]  # fmt: skip
    done = run_module("kdad.pretrain", arguments, roots)
    assert done.returncode == 0, done.stderr
    assert (roots / "out/tf_efficientnet_lite0_mnist.safetensors").is_file()
    assert "backbone=efficientnet_lite0 backbone.weights=" in done.stdout
    assert "backbone.weight_keys=by_name" in done.stdout
