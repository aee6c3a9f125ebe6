"""The site: built in strict mode, it shows what the files say, asks no network, and fits a phone."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from kdad import published
from kdad.settings.keys import KEYS
from tests.browser import DESKTOP, PHONE
from tests.docs.blocks import PAGES, ROOT
from tests.docs.test_api import NAMES

pytest.importorskip("latex2mathml", reason="needs latex2mathml: pip install 'kdad[docs]'")
sys.path.insert(0, str(ROOT / "docs"))
import generate

sys.path.pop(0)
MODELS = ("rd", "stpm", "mkd", "dskd")


# What is generated ----------------------------------------------------------------------------------------


def test_every_key_is_in_the_reference():
    text = generate.fill_tables((ROOT / "docs/configuration.md").read_text())
    pages = text + "".join(generate.tabulate_switches(model) for model in MODELS)
    for key in KEYS:
        if key.meaning and not key.supplied and not key.copy:
            assert f"`{key.name}`" in pages, key.name


def test_a_row_of_the_reference_says_what_the_key_table_says():
    rows = {row.split(" | ")[0].strip("| `"): row for row in generate.tabulate_keys("run").splitlines() if "`" in row}
    assert rows["decision.k"].endswith("| a number, at least 0 | `3.0` | another setting of the same method |")
    assert "| the detector's |" in rows["trainer.max_epochs"] and "| `16` |" not in rows["batch_size"]
    assert "&lt;lo&gt;" in rows["dataset.intensity"]  # else a browser would take it for an element


@pytest.mark.parametrize("command", generate.COMMANDS)
def test_every_row_of_the_reference_says_what_the_key_may_hold_and_what_another_value_is(command):
    if not any(first == command for first, _ in generate.list_keys()):
        return
    rows = [
        re.split(r" (?<!\\)\| ", row.strip("| ")) for row in generate.tabulate_keys(command).splitlines() if "`" in row
    ]
    rows = [row for row in rows if len(row) == 5]
    assert rows and [row[0] for row in rows if not (row[1] and row[2] and row[4])] == []


def test_a_key_that_some_data_sets_have_says_what_each_of_them_takes():
    said = {key.name: generate.find_values(key) for _, key in generate.list_keys()}
    assert said["dataset.split_by"] == "Folder: one of name, count"
    assert said["dataset.masks"].endswith("Folder: a name, or null") and "Demo, MVTec: a text" in said["dataset.masks"]
    assert said["form"] == "one of paper, released"


@pytest.mark.parametrize("paper", MODELS)
def test_every_printed_cell_is_on_the_page(paper):
    text = generate.tabulate_published(paper)
    for table in published.list_tables(paper):
        cells = published.load_table(paper, table)
        cells = cells[cells["own"] & (cells["status"] == "printed")]
        shown = text.partition(published.describe_table(paper, table)["title"])[2]
        for value in cells["value"]:
            assert re.search(rf"\| {re.escape(value)}( ±| \|)", shown), (table, value)


@pytest.mark.parametrize("model", MODELS)
def test_measured_numbers_are_those_of_the_runs(model):
    runs = pd.read_csv(ROOT / "experiments/comparison/runs.csv")
    found = 100 * runs.loc[(runs["model"] == model) & (runs["dataset"] == "mtd"), "pro"]
    assert f"{found.mean():.1f} ± {found.std():.1f} | " in generate.tabulate_measured(model)
    assert f" {found.mean():.1f} ± {found.std():.1f} |" in generate.tabulate_detectors()


def test_the_readme_s_table_has_the_papers_numbers():
    rows = re.findall(
        r"^\| \[`(\w+)`\].* \| ([\d.]+) / ([\d.]+) / ([\d.-]+) \|$", (ROOT / "README.md").read_text(), re.M
    )
    tables = {"rd": (1, 2), "stpm": (2, 1), "mkd": (3, 4), "dskd": (1, 2)}
    assert [row[0] for row in rows] == list(MODELS)
    for paper, *values in rows:
        image, pixels = tables[paper]
        for metric, table, value in zip(
            ("image_auroc", "pixel_auroc", "pro"), (image, pixels, pixels), values, strict=True
        ):
            cells = published.load_table(paper, table)
            chosen = cells["own"] & (cells["category"] == "average") & (cells["metric"] == metric)
            chosen &= cells["setting"].isin(["", "256"])
            printed = [f"{100 * fraction:.1f}" for fraction in cells.loc[chosen, "fraction"]]
            assert printed == ([value] if value != "-" else []), (paper, metric)


def test_formulas_become_mathml():
    page = (
        '<p>a <span class="arithmatex">\\(x &lt; \\sigma^2\\)</span></p><div class="arithmatex">\\[\\sum_k M^k\\]</div>'
    )
    drawn = generate.draw_formulas(page)
    assert drawn.count("<math") == 2 and "arithmatex" not in drawn and 'display="block"' in drawn


@pytest.mark.parametrize(
    ("link", "page", "expected"),
    [
        ("../experiments/use/README.md", "docs/use.md", "experiments/use/README.md"),
        ("../../experiments/tiles", "docs/detectors/rd.md", "../experiments/tiles/README.md"),
        ("../CONTRIBUTING.md#rooms", "docs/run.md", "contributing.md#rooms"),
        ("LICENSE", "CONTRIBUTING.md", "LICENSE.txt"),
        ("../forms/README.md", "experiments/use/README.md", "../forms/README.md"),
        ("metrics.md", "docs/run.md", "metrics.md"),
    ],
)
def test_links_lead_to_where_the_site_has_the_page(link, page, expected):
    assert generate.relink(f"[a]({link})", page) == f"[a]({expected})"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_of_the_repository_lead_somewhere(page):
    """As they are read there, without the site."""
    made = {(ROOT / "docs/compare.md"), (ROOT / "docs/changelog.md"), (ROOT / "docs/contributing.md")}
    for link in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if "://" not in link:
            target = (page.parent / link).resolve()
            assert target.exists() or target in made, link


# What is built --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="needs mkdocs: pip install 'kdad[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder, "--config-file", ROOT / "mkdocs.yml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_names_nothing_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["']([^"']+)""", text)
        assert not [url for url in loaded if url.startswith(("http:", "https:", "//"))], page
        assert "<!-- table" not in text and "arithmatex" not in text, page


@pytest.mark.slow
def test_every_name_of_the_api_page_is_rendered(site):
    """Of a name without a docstring, and of a member that is inherited, mkdocstrings leaves out everything, silently."""
    shown = set(re.findall(r'id="(kdad[\w.]*)"', (site / "api.html").read_text(encoding="utf-8")))
    hidden = {f"kdad.models.{model}" for model in MODELS} | {"kdad.data.parts"}  # whose heading is not shown
    missing = {name for name in NAMES if name not in shown and name.rpartition(".")[0] not in hidden}
    assert missing == set() and len(shown) > 150


@pytest.mark.slow
def test_the_site_fits_a_phone_and_is_searched_without_a_network(site, browser):
    asked = []
    for viewport in (PHONE, DESKTOP):
        page = browser.new_page(viewport=viewport)
        page.on("request", lambda request: asked.append(request.url))
        for path in ("index.html", "detectors/mkd.html", "configuration.html", "metrics.html", "api.html", "run.html"):
            page.goto(f"file://{site / path}")
            assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"], (path, viewport)
        page.goto(f"file://{site / 'detectors/rd.html'}")
        if viewport == PHONE:
            page.click("label[for=__search]")
        page.locator(".md-search__input").press_sequentially("threshold")
        page.wait_for_selector(".md-search-result__item")
        page.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))]


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            assert f" {page.relative_to(ROOT / 'docs').as_posix()}\n" in text, page
    named = [Path(name) for name in re.findall(r"(experiments/\S+\.md)", text)]
    assert set(named) >= {p.relative_to(ROOT) for p in (ROOT / "experiments").glob("*/README.md")}
