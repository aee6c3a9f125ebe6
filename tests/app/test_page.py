"""The page in a browser: drop, read score and decision, move a slider, see the mask change; on a desk and on a phone."""

import base64

import numpy as np
import pytest
from PIL import Image

from kdad.app.__main__ import main
from kdad.app.examples import find_hardest
from tests.app.test_server import Started
from tests.browser import DESKTOP, PHONE
from tests.inference.trained import train

pytest.importorskip("gradio", reason="needs gradio: pip install 'kdad[app]'")
pytestmark = pytest.mark.slow  # processes of their own, or many seconds
DROP = """([place, name, content]) => {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0)), data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  const event = place === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                                  : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  (document.querySelector(place === "paste" ? "body" : place)).dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return [train(model, tmp_path_factory.mktemp(model)) for model in ("stpm", "rd")]


@pytest.fixture(scope="module")
def server(two):
    folders = ",".join(str(one.folder) for one in two)
    started = Started(f"ckpt_path=[{folders}]", f"backbone.weights={two[0].weights}")
    yield started
    started.process.kill()
    started.process.join()


@pytest.fixture
def visit(browser, server):
    """Open the page; the test fails where it asks another machine for anything, or its script fails."""
    foreign, problems, opened = [], [], []

    def visit(viewport):
        page = browser.new_page(viewport=viewport)
        opened.append(page)
        local = (server.url, "data:", "blob:", server.url.replace("http", "ws"))
        page.on("request", lambda request: request.url.startswith(local) or foreign.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("#pictures input[type=file]", state="attached")
        page.wait_for_timeout(500)
        return page

    yield visit
    for page in opened:
        page.close()
    assert not foreign and not problems


def drop(page, path, place="#pictures button", name=None):
    page.evaluate(DROP, [place, name or path.name, base64.b64encode(path.read_bytes()).decode()])


def move(page, slider, value):
    """Type a value into a slider's field, as its arrows do."""
    field = page.locator(f"#{slider} input[type=number]")
    field.fill(str(value))
    field.blur()


def read_area(page):
    return float(page.inner_text("#card-0 .area").split()[0])


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_dropped_picture_is_judged_and_the_sliders_move_it(visit, two, viewport):
    page = visit(viewport)
    drop(page, two[0].pictures / "square/0.png")
    page.wait_for_selector("#card-1 img")
    assert {page.inner_text(f"#card-{n} .word strong") for n in (0, 1)} <= {"Normal", "Anomalous"}
    assert page.inner_text("#card-0 h3") == "stpm-folder" and page.inner_text("#card-1 h3") == "rd-folder"
    picture, area = page.get_attribute("#card-0 img", "src"), read_area(page)
    move(page, "threshold", 0.02)
    page.wait_for_function("parseFloat(document.querySelector('#card-0 .area').innerText) > 50")
    assert page.inner_text("#card-0 .word strong") == "Anomalous" and area < 50
    changed = page.get_attribute("#card-0 img", "src")
    assert changed != picture
    move(page, "threshold", 0.99)
    page.wait_for_function("document.querySelector('#card-0 .word strong').innerText === 'Normal'")
    assert read_area(page) == 0
    move(page, "threshold", 0.02)
    page.wait_for_function("document.querySelector('#card-0 .word strong').innerText === 'Anomalous'")
    move(page, "strength", 0)
    page.wait_for_function("old => document.querySelector('#card-0 img').src !== old", arg=changed)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    # gradio keeps a second, hidden table to measure columns by
    page.locator("#table").get_by_text("0.png").last.wait_for(state="visible")
    assert "anomalous" in page.inner_text("#table")


def test_pasted_pictures_examples_and_files_that_are_none(visit, two, tmp_path):
    page = visit(DESKTOP)
    drop(page, two[0].pictures / "normal/0.png", "paste", "pasted.png")
    page.wait_for_selector("#card-0 img")
    assert page.inner_text("figure .name") == "pasted.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.set_input_files("#pictures input[type=file]", [str(broken)])
    page.wait_for_selector(".remark")
    assert page.inner_text(".remark") == "cannot read image broken.png: not of a known format"
    strange = tmp_path / "<img src=x onerror=document.title='owned'>.png"
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(strange)
    page.set_input_files("#pictures input[type=file]", [str(strange)])
    page.wait_for_function("document.querySelector('figure .name').innerText !== 'pasted.png'")
    page.locator("#examples button").first.click()
    page.wait_for_function("document.querySelector('figure .name').innerText.includes('truly')")
    assert page.title() == "kdad"
    page.locator("#table").get_by_text("pasted.png").last.click()
    page.wait_for_function("document.querySelector('figure .name').innerText === 'pasted.png'")
    with page.expect_download() as download:
        page.click(".download")
    lines = open(download.value.path()).read().splitlines()
    assert lines[0] == "picture,detector,score,normalised_score,threshold,decision,area"
    assert len(lines) == 1 + 2 * 3 and lines[1].startswith("pasted.png,stpm-folder,")


def test_the_hardest_images_are_of_both_labels(two):
    found = find_hardest(two[0].checkpoint, 8)
    assert [example.truth for example in found] == ["anomalous"] * 2 + ["normal"] * 2
    assert all(
        example.path.parent.name == ("square" if example.truth == "anomalous" else "normal") for example in found
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "ckpt_path=<run folder or checkpoint> is needed"),
        (["ckpt_path=/nonexistent"], "no checkpoint"),
        (["ckpt_path={run}", "port=70000"], "port=70000"),
        (["ckpt_path={run}", "host=256.1.1.1", "port=0"], "host=256.1.1.1 port=0"),
        (["ckpt_path={run}", "max_megabytes=0"], "max_megabytes=0"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(two, given, told, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["kdad app", *(word.format(run=two[0].folder) for word in given)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_detector_without_thresholds_is_sent_to_calibrate(two, monkeypatch, capsys):
    monkeypatch.setattr("kdad.inference.detector.build_trained", lambda *_: _without_decision(two[0]))
    monkeypatch.setattr("sys.argv", ["kdad app", f"ckpt_path={two[0].folder}", "port=0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "kdad calibrate" in capsys.readouterr().err


def _without_decision(one):
    from kdad.inference.trained import build_trained

    network, _, config = build_trained(one.checkpoint, str(one.weights), (), False)
    return network, None, config
