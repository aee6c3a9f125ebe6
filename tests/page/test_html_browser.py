"""The page in a browser: it sorts, filters and opens pictures, from a file and without a network."""

import pytest

from kdad.page.html import write_html
from kdad.results.read import read_runs
from tests.browser import DESKTOP, PHONE
from tests.page.test_sections import paint

pytestmark = pytest.mark.slow  # processes of their own, or many seconds


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("page") / "report.html"


@pytest.fixture
def report(file, write_tested, write_run, tmp_path):
    """One page for all tests, which do not change it."""
    if file.exists():
        return file.as_uri()
    for seed, auroc in enumerate((0.9, 0.15, 0.95)):
        write_tested(seed=seed, results={"image_auroc": auroc})
    write_tested(model="stpm", category="screw", changes={"backbone.name": "resnet50"}, results={"image_auroc": 1})
    write_run(None, seed=3, category="screw")
    write_html(file, read_runs([tmp_path]), 4)
    return file.as_uri()


@pytest.fixture
def visit(browser, report):
    """Open the page; the test fails if it loads anything else, or if its script does."""
    loaded, problems, opened = [], [], []

    def visit(**options):
        page = browser.new_page(**options)
        opened.append(page)
        page.on("request", lambda request: loaded.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(report)
        return page

    yield visit
    for page in opened:
        page.close()
    assert {url for url in loaded if not url.startswith("data:")} == {report} and not problems


def column(page, key):
    return page.locator(f"#board tbody tr:visible td[data-key={key}]").all_inner_texts()


def sort(page, name):
    page.locator("#board").get_by_role("button", name=name, exact=True).click()


def test_it_sorts(visit):
    page = visit(viewport=DESKTOP)
    heading = page.locator("#board").get_by_role("columnheader", name="Image AUROC (%)", exact=True)
    assert column(page, "image_auroc") == ["95.00", "90.00", "15.00", "100.00", "–"]
    sort(page, "Image AUROC (%)")
    assert column(page, "image_auroc") == ["100.00", "95.00", "90.00", "15.00", "–"]  # as numbers, none last
    assert heading.get_attribute("aria-sort") == "descending"
    sort(page, "Image AUROC (%)")
    assert column(page, "image_auroc") == ["15.00", "90.00", "95.00", "100.00", "–"]
    assert heading.get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="Model").focus()
    page.keyboard.press("Enter")
    assert column(page, "model") == ["rd", "rd", "rd", "rd", "stpm"]
    assert column(page, "image_auroc") == ["15.00", "90.00", "95.00", "–", "100.00"]  # of equal ones the order stays
    assert heading.get_attribute("aria-sort") == "none"


def test_it_filters(visit):
    page = visit(viewport=DESKTOP)
    shown = page.locator("article:visible")
    assert shown.count() == 5
    page.get_by_label("Category").select_option("screw")
    assert column(page, "category") == ["screw", "screw"] and shown.count() == 2
    assert page.locator("#count").inner_text() == "2 of 5 runs"
    assert page.locator(".card:not(article, .paper):visible h3").all_inner_texts() == ["mvtec screw"]
    page.get_by_label("Model").select_option("stpm")
    assert column(page, "status") == ["ok"]
    page.get_by_role("button", name="Reset").click()
    shown.nth(4).wait_for()  # the page filters anew after the event
    assert len(column(page, "model")) == 5
    page.get_by_label("Backbone").select_option("resnet50")
    assert column(page, "model") == ["stpm"]
    page.get_by_role("button", name="Reset").click()
    shown.nth(4).wait_for()  # the page filters anew after the event
    page.get_by_label("Text").fill("FAILED screw")
    assert column(page, "seed") == ["3"] and shown.count() == 1
    page.get_by_label("Text").fill("nothing of the kind")
    assert column(page, "seed") == [] and page.get_by_text("No run passes the filters.").is_visible()
    sort(page, "Seed")
    page.get_by_label("Text").fill("")
    assert column(page, "seed") == ["0", "0", "1", "2", "3"]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_picture_opens(visit, viewport):
    page = visit(viewport=viewport)
    picture = page.locator("article .gallery button").first
    thumbnail, dialog = picture.locator("img"), page.get_by_role("dialog")
    assert not dialog.is_visible()
    picture.click()
    large = dialog.locator("img")
    assert dialog.is_visible() and large.get_attribute("src") == thumbnail.get_attribute("src")
    assert large.get_attribute("alt") == thumbnail.get_attribute("alt")
    assert large.evaluate("image => image.naturalWidth") == 118
    assert large.bounding_box()["width"] > 2 * thumbnail.bounding_box()["width"]
    assert "good 001, score 0.7, above 25 % of the anomalous" in dialog.locator("figcaption").inner_text()
    page.keyboard.press("ArrowRight")
    assert "good 003, score 0.3" in dialog.locator("figcaption").inner_text()
    dialog.get_by_role("button", name="Previous picture").click()
    assert large.get_attribute("src") == thumbnail.get_attribute("src")
    page.keyboard.press("Escape")
    assert not dialog.is_visible() and picture.evaluate("button => button === document.activeElement")
    picture.press("Enter")
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_all_pictures_decode_and_fit(visit):
    for viewport in (DESKTOP, PHONE):
        page = visit(viewport=viewport)
        broken = "[...document.querySelectorAll('main img')].filter(i => !(i.complete && i.naturalWidth)).length"
        page.wait_for_function(f"{broken} === 0")
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


def test_details(visit):
    page = visit(viewport=DESKTOP)
    hidden = page.locator(".paper").first.locator("tr.absent").first
    assert not hidden.is_visible()
    page.locator(".paper").first.get_by_role("checkbox").check()
    assert hidden.is_visible()
    page.get_by_role("link", name="Run 2, ").click()
    configuration = page.locator("#run-2 details").last
    configuration.locator("summary").click()
    assert configuration.get_by_text("image_size: 256").first.is_visible()


def test_of_many_runs_pictures_are_folded_until_they_are_asked_for(browser, write_tested, tmp_path, monkeypatch):
    monkeypatch.setattr("kdad.page.html.UNFOLDED", 1)
    for seed in range(2):
        write_tested(seed=seed)
    path = tmp_path / "many.html"
    write_html(path, read_runs([tmp_path]), 4)
    page = browser.new_page(viewport=DESKTOP)
    page.goto(path.as_uri())
    pictures = page.locator("article button.picture:visible")
    assert pictures.count() == 0 and page.locator("article .tiles").count() == 2  # the figures stay
    page.locator('#board a[href="#run-2"]').click()
    page.locator("#run-2 .gallery button").first.wait_for()
    assert pictures.count() == page.locator("#run-2 button.picture").count() > 0
    page.close()


def test_dark(visit):
    colours = []
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        colours.append(page.locator(".plot img").first.evaluate("image => getComputedStyle(image).filter"))
    assert colours == ["rgb(245, 246, 248)", "none", "rgb(18, 22, 27)", "invert(1) hue-rotate(180deg)"]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_a_link_lands_at_its_run(browser, write_run, tmp_path, viewport):
    """Among sixty, however far down the page the run is, and however little of it was drawn before."""
    for seed in range(60):
        write_run(0.5 + seed / 200, seed=seed)
    path = tmp_path / "many.html"
    write_html(path, read_runs([tmp_path]), 0)
    page = browser.new_page(viewport=viewport)
    page.goto(path.as_uri())
    for number in (55, 7, 30):
        page.locator(f'#board a[href="#run-{number}"]').click()
        page.wait_for_timeout(300)
        top = page.locator(f"#run-{number}").evaluate("element => element.getBoundingClientRect().top")
        assert 0 <= top <= 20
        page.evaluate("scrollTo(0, 0)")
    page.close()


def test_on_a_phone_the_first_figures_are_on_the_first_screen(visit):
    page = visit(viewport=PHONE)
    box = page.locator('#board tbody td[data-key="image_auroc"]').first.bounding_box()
    assert box["x"] + box["width"] <= PHONE["width"] and box["y"] + box["height"] <= PHONE["height"]
    assert not page.locator("#filters").is_visible()
    page.locator("#fold summary").click()
    assert page.locator("#filters").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_hard_image_leads_to_the_maps_of_all_detectors(browser, write_tested, tmp_path, viewport):
    for model, colour in (("rd", (200, 0, 0)), ("stpm", (0, 0, 200)), ("dskd", (0, 200, 0))):
        paint(write_tested(model=model, folder=model), colour)
        write_tested(model=model, folder=f"{model}_blur", changes={"corruption": "blur"}, results={"pro": 0.5})
    path = tmp_path / "sides.html"
    write_html(path, read_runs([tmp_path]), 4)
    page = browser.new_page(viewport=viewport)
    page.goto(path.as_uri())
    page.locator("article").filter(has_text="STPM").first.get_by_role("link", name="good 003").click()
    page.wait_for_timeout(300)
    row = page.locator("tr:target")
    assert row.locator("th").inner_text() == "good 003"
    assert 0 <= row.evaluate("element => element.getBoundingClientRect().top") <= viewport["height"] - 100
    row.locator("button").nth(1).click()
    caption = page.get_by_role("dialog").locator("figcaption")
    assert caption.inner_text().startswith("mvtec grid, good 003, anomaly map of ")
    page.keyboard.press("Escape")
    for name in ("Comparison", "Robustness"):  # drawings that no card's heading names
        page.locator(f"section[aria-labelledby={name.lower()}] button.plot").first.click()
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    wide = "[...document.querySelectorAll('main table')].filter(t => !t.closest('.scroll')).length"
    assert page.evaluate(wide) == 0
    page.close()
