import gzip
import hashlib
import logging
import shutil
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from kdad.data import CIFAR10, MNIST, FashionMNIST
from kdad.errors import UserError
from tests.one_class import write_cifar10, write_fashion_mnist, write_mnist


@pytest.fixture
def root(tmp_path):
    write_mnist(tmp_path / "mnist")
    return tmp_path / "mnist"


def refusal(data) -> str:
    with pytest.raises(UserError) as caught:
        data.check()
    return str(caught.value)


@pytest.mark.parametrize("category", ["8", 8, "eight", "Eight"])
def test_one_class_is_normal_and_the_whole_test_set_is_tested(root, options, category):
    data = MNIST(**options(root, category=category))
    data.check()
    assert data.category == "8" and data.categories() == [str(i) for i in range(10)]
    assert [str(sample.path) for sample in data.train_samples] == [f"train/{i:05d}" for i in range(8, 60, 10)]
    assert len(data.test_samples) == 20 and not data.has_masks
    assert [i for i, sample in enumerate(data.test_samples) if sample.label == 0] == [8, 18]
    assert str(data.test_samples[3].path) == "test/00003" and data.test_samples[3].kind == "three"
    assert data.test_samples == sorted(data.test_samples)


def test_names_are_torchvisions(tmp_path, monkeypatch, options):
    write_cifar10(tmp_path / "cifar10", monkeypatch)
    write_fashion_mnist(tmp_path / "fashion_mnist")
    for layout, root, category, index in (
        (CIFAR10, "cifar10", "ship", 8), (FashionMNIST, "fashion_mnist", "T-shirt/top", 0),
        (FashionMNIST, "fashion_mnist", "Ankle boot", 9),
    ):  # fmt: skip
        data = layout(**options(tmp_path / root, category=category))
        data.check()
        assert data.category == str(index) and data.train_samples[0].label == 0
        assert {int(sample.path.name) % 10 for sample in data.train_samples} == {index}
    assert len(CIFAR10.names) == len(FashionMNIST.names) == len(datasets.FashionMNIST.classes) == 10


def test_pixels_are_those_of_the_arrays(tmp_path, options, monkeypatch):
    parts = write_mnist(tmp_path / "mnist")
    data = MNIST(**options(tmp_path / "mnist", category=3, image_size=28))
    data.setup()
    assert np.array_equal(data.pools[0].images.numpy(), np.repeat(parts["train"][0][3::10, :, :, None], 3, axis=3))
    labels = torch.cat([batch["label"] for batch in data.test_dataloader()])
    assert labels.tolist() == [int(i % 10 != 3) for i in range(20)]

    larger = MNIST(**options(tmp_path / "mnist", category=3, image_size=32))
    larger.setup()
    expected = Image.fromarray(parts["test"][0][7]).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(larger.pools[1].images[7].numpy(), np.array(expected))

    write_cifar10(tmp_path / "cifar10", monkeypatch)
    colours = CIFAR10(**options(tmp_path / "cifar10", category="ship", image_size=32))
    colours.setup()
    stored = datasets.CIFAR10(tmp_path / "cifar10", train=False).data
    assert np.array_equal(colours.pools[1].images.numpy(), stored)


def test_look_and_version(root, options):
    data = MNIST(**options(root, category=3))
    data.check()
    first, second = data.test_samples[:2]
    assert data.look_at(first) == ((28, 28), "L")
    assert data.version(first) == data.version(first) != data.version(second)


def test_copies_are_found_by_their_pixels(tmp_path, options, caplog):
    parts = write_mnist(tmp_path / "mnist")
    images = parts["test"][0]
    images[4] = parts["train"][0][13]
    path = tmp_path / "mnist/MNIST/raw/t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:16] + images.tobytes())
    data = MNIST(**options(tmp_path / "mnist", category=3))
    data.check()
    assert data.facts["n_duplicates"] == 1 and "test/00004, a copy of train/00013" in caplog.text
    other = MNIST(**options(tmp_path / "mnist", category=4))
    other.check()
    assert other.facts["n_duplicates"] == 0


def test_other_counts_than_the_official_ones_warn(root, options, caplog):
    with caplog.at_level(logging.WARNING):
        MNIST(**options(root, category=3, official={"3": {"train": 6131, "test": 20}})).check()
    assert "6 train images, officially 6131" in caplog.text and "test images" not in caplog.text


@pytest.mark.parametrize("category", [None, "eigth", "10"])
def test_an_unknown_class_lists_all(root, options, category):
    message = refusal(MNIST(**options(root, category=category)))
    assert "0 zero, 1 one" in message and (f"no class {category}" in message or category is None)


@pytest.mark.parametrize("layout", [MNIST, FashionMNIST, CIFAR10])
def test_a_missing_folder_names_root_layout_and_switch(tmp_path, options, layout):
    message = refusal(layout(**options(tmp_path, category=3)))
    for part in (str(tmp_path), layout.layout, "dataset.download=true", "dataset.root=", "KDAD_DATA"):
        assert part in message


def test_damaged_files_are_refused(root, options):
    raw = root / "MNIST/raw"
    labels = (raw / "t10k-labels-idx1-ubyte").read_bytes()
    (raw / "t10k-labels-idx1-ubyte").write_bytes(labels[:7] + bytes([19]) + labels[8:-1])
    assert f"{raw} has 20 test images and 19 labels" in refusal(MNIST(**options(root, category=3)))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(labels[:-1] + bytes([11]))
    assert "labels from 0 to 11" in refusal(MNIST(**options(root, category=3)))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(labels)
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-5])
    message = refusal(MNIST(**options(root, category=3)))
    assert str(raw) in message and "train images" in message and "dataset.download=true" in message


def test_a_wrong_checksum_is_refused_before_anything_is_unpickled(tmp_path, monkeypatch, options):
    write_cifar10(tmp_path, monkeypatch)
    batch = tmp_path / "cifar-10-batches-py/data_batch_2"
    batch.write_bytes(batch.read_bytes() + b"x")
    monkeypatch.setattr("pickle.load", None)
    assert "corrupted" in refusal(CIFAR10(**options(tmp_path, category=3)))


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server with the tiny set, whose checksums torchvision is told."""
    write_mnist(tmp_path / "source")
    resources = []
    for path in sorted((tmp_path / "source/MNIST/raw").iterdir()):
        packed = tmp_path / "mirror" / f"{path.name}.gz"
        packed.parent.mkdir(exist_ok=True)
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "mirror")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield tmp_path / "mirror"
        server.shutdown()


def test_download_on_request_only(tmp_path, mirror, options):
    assert "dataset.download=true" in refusal(MNIST(**options(tmp_path / "new", category=3)))
    assert not (tmp_path / "new").exists()
    data = MNIST(**options(tmp_path / "new", category=3, download=True))
    data.setup()
    assert data.facts["n_train"] == 6 and (tmp_path / "new/MNIST/raw/t10k-images-idx3-ubyte").is_file()
    shutil.rmtree(mirror)
    MNIST(**options(tmp_path / "new", category=3, download=True)).setup()  # what is there is not fetched again


def test_a_failing_download_is_a_message(tmp_path, mirror, options):
    packed = mirror / "t10k-labels-idx1-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-1])
    message = refusal(MNIST(**options(tmp_path / "new", category=3, download=True)))
    assert "downloading into" in message and str(tmp_path / "new") in message and "corrupted" in message
    shutil.rmtree(mirror)
    message = refusal(MNIST(**options(tmp_path / "other", category=3, download=True)))
    assert "downloading into" in message and "dataset.root=" in message


@pytest.mark.slow
def test_real_mnist(kdad_data, options):
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    data = MNIST(**options(kdad_data / "mnist", category=8))
    data.check()
    assert data.facts["n_train"] == counts[8] and data.facts["n_duplicates"] == 0
    assert Counter(sample.label for sample in data.test_samples) == {0: 974, 1: 9026}
    for digit in (0, 1):
        other = MNIST(**options(kdad_data / "mnist", category=digit))
        other.check()
        assert other.facts["n_train"] == counts[digit]
