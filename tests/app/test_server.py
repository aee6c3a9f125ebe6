"""`POST /predict`: right answers, sentences for bad input, many clients at once, nothing of the server given away."""

import base64
import io
import os
import re
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import kdad
from kdad.app.batching import Batcher, BusyError
from tests.inference.trained import train
from tests.processes import start_module

pytest.importorskip("gradio", reason="needs gradio: pip install 'kdad[app]'")
pytestmark = pytest.mark.slow  # processes of their own, or many seconds


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("stpm", tmp_path_factory.mktemp("secret_place"))


class Started:
    """`kdad app` in a process of its own, from when it says where it listens."""

    def __init__(self, *overrides):
        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder, "said")
            said.touch()
            self.process = start_module("kdad.app", ["port=0", *overrides], Path.cwd(), said, said)
            while "Open http" not in said.read_text():
                assert self.process.exitcode is None, said.read_text()
                time.sleep(0.1)
            self.url = re.search(r"http://\S+", said.read_text())[0]

    def read_memory(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024  # MiB


@pytest.fixture(scope="module")
def server(trained):
    started = Started(
        f"ckpt_path={trained.folder}", f"backbone.weights={trained.weights}", "max_megabytes=1", "max_megapixels=2"
    )
    yield started
    os.kill(started.process.pid, signal.SIGINT)
    started.process.join(20)
    assert started.process.exitcode in (0, 130, -signal.SIGINT)


def post(server, content, name="part.png", **query):
    return httpx.post(f"{server.url}/predict", files={"image": (name, content)}, params=query, timeout=60)


def test_the_answer_is_the_detectors(server, trained):
    expected = kdad.load(trained.folder, weights=str(trained.weights))
    for path in sorted(trained.pictures.rglob("*.png"))[:4]:
        result, answer = expected(path), post(server, path.read_bytes()).json()
        assert answer["score"] == pytest.approx(result.score, rel=1e-5)
        assert answer["normalised_score"] == pytest.approx(result.normalised, abs=1e-4)
        assert answer["is_anomalous"] == result.is_anomalous
        assert (answer["width"], answer["height"]) == (90, 70)
        assert answer["area"] == pytest.approx(result.area, abs=0.01) and "overlay_png" not in answer


def test_an_overlay_comes_with_it_if_asked_for(server, trained):
    picture = (trained.pictures / "square/0.png").read_bytes()
    answer = post(server, picture, overlay=True).json()
    drawn = Image.open(io.BytesIO(base64.b64decode(answer["overlay_png"])))
    assert drawn.format == "PNG" and drawn.size == (90, 70)


def bomb():
    file = io.BytesIO()
    Image.new("L", (3000, 3000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"no picture", 422, "cannot read image part.png: not of a known format"),
        (b"", 422, "cannot read image part.png"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 500, 422, "cannot read image part.png"),
        (bomb(), 422, "more than 2 million pixels"),
        (b"0" * 1_200_000, 413, "at most 1 MB"),
    ],
    ids=["text", "empty", "cut", "bomb", "large"],
)  # fmt: skip
def test_bad_input_is_answered_by_a_sentence(server, content, status, told):
    answer = post(server, content, "../../a/part.png")
    assert answer.status_code == status and told in answer.json()["error"]


def test_requests_that_are_none_are_answered_by_a_sentence(server, trained):
    picture = (trained.pictures / "square/0.png").read_bytes()
    unknown = post(server, picture, detector="mkd")
    assert unknown.status_code == 404 and unknown.json()["error"] == "detector=mkd: there is stpm-folder"
    nothing = httpx.post(f"{server.url}/predict")
    assert nothing.status_code == 422 and "curl -F image=@part.png" in nothing.json()["error"]
    endless = httpx.post(
        f"{server.url}/predict", content=(b"0" * 65536 for _ in range(100)), timeout=60
    )  # no length told
    assert endless.status_code in (413, 422)
    foreign = httpx.get(f"{server.url}/detectors", headers={"host": "evil.example"})
    assert foreign.status_code == 400


def test_nothing_of_the_server_can_be_read(server, trained, tmp_path):
    """Neither files, nor where its own lie."""
    secret = tmp_path / "secret.txt"
    secret.write_text("not for you")
    checkpoint = trained.folder / "checkpoints/tested.ckpt"
    for path in (secret, checkpoint, "/etc/passwd", Path("pyproject.toml").resolve(), kdad.__file__):
        for route in (
            f"/gradio_api/file={path}",
            f"/file={path}",
            f"/gradio_api/file=../../..{path}",
            f"/static/{path}",
        ):
            answer = httpx.get(server.url + route)
            assert answer.status_code in (400, 403, 404, 405, 422), route
            assert "not for you" not in answer.text and "root:" not in answer.text
    for route in ("/", "/config", "/gradio_api/info", "/detectors", "/openapi.json"):
        text = httpx.get(server.url + route).text
        assert "secret_place" not in text and str(trained.weights) not in text, route


def test_a_thousand_requests_of_sixteen_clients(server, trained):
    """None is lost, each gets its own answer, several are judged together, and memory does not grow."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(20):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue())
    with httpx.Client(limits=httpx.Limits(max_connections=16), timeout=120) as client:

        def ask(number):
            answer = client.post(f"{server.url}/predict", files={"image": ("x.png", pictures[number % 20])})
            assert answer.status_code == 200
            return answer.json()["score"]

        alone = [ask(number) for number in range(20)]
        with ThreadPoolExecutor(16) as clients:
            assert list(clients.map(ask, range(400))) == pytest.approx(alone * 20, rel=1e-4)
            before = server.read_memory()
            assert list(clients.map(ask, range(600))) == pytest.approx(alone * 30, rel=1e-4)
    assert server.read_memory() - before < 60  # MiB; 600 of these pictures alone would take 206


class Slow:
    """A detector that notes its batches."""

    batch_size = 4

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def judge(self, images):
        self.go.wait(10)
        self.batches.append(len(images))
        if None in images:
            raise RuntimeError("cannot")
        return [image * 10 for image in images]


def test_pictures_that_wait_are_judged_together():
    slow = Slow()
    batcher = Batcher(slow, waiting=9)
    with ThreadPoolExecutor(16) as callers:
        first = callers.submit(batcher.judge, 1)
        time.sleep(0.3)  # it is being judged
        others = [callers.submit(batcher.judge, number) for number in range(2, 11)]
        time.sleep(0.3)
        with pytest.raises(BusyError, match="9 pictures wait already"):
            batcher.judge(11)
        slow.go.set()
        assert [first.result(), *(other.result() for other in others)] == [10 * n for n in range(1, 11)]
        assert slow.batches == [1, 4, 4, 1]
        with pytest.raises(RuntimeError, match="cannot"):
            batcher.judge(None)
        assert batcher.judge(5) == 50  # and goes on
