"""The site: every page and every link of the repository is on it, and it needs no network."""

import contextlib
import re
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from chromium import Chromium, needs_chromium

import resnet_keras

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site():
    """The hook of mkdocs.yml as a module."""
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    from runpy import run_path

    return types.SimpleNamespace(**run_path(str(ROOT / "tools" / "site.py")))


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert set(PAGES) <= set(listed) and len(set(listed)) == len(listed)


def test_links_lead_from_page_to_page(site):
    list(site._linked())  # finds the pages outside of docs/

    def written(page, text):
        page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri=page))
        return site.on_page_markdown(text, page, None, None)

    assert written("train.md", "[a](images.md#x)") == "[a](images.md#x)"
    assert written("train.md", "[q](../recipes/q.py)") == "[q](files/recipes/q.py.md)"
    assert written("index.md", "[t](docs/train.md) ![r](docs/report.png)") == (
        "[t](train.md) ![r](report.png)"
    )
    assert written("files/CONTRIBUTING.md", "[t](docs/train.md#y)") == "[t](../train.md#y)"
    for text in ("[k](https://keras.io)", "[x](#here)", "```python\nf[0](docs/train.md)\n```"):
        assert written("train.md", text) == text


def test_the_reference_has_every_public_name_once(site):
    marks = re.findall(r"^::: resnet_keras\.[\w.]+\.(\w+)$", site._reference(), re.M)
    assert sorted(marks) == sorted(resnet_keras.__all__)


class Links(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.add(given.get("id"))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img") and "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loads.append(given["href"])


@pytest.fixture(scope="module")
def built(site, tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("built") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.mark.slow
def test_the_built_site_is_whole_and_loads_nothing_from_elsewhere(built):
    found = sorted(built.rglob("*.html"))
    pages = {
        path: Links(path.read_text())
        for path in found
        if path.name != "404.html"  # which a server gives at any address
    }
    assert len(pages) > 60
    for path, page in pages.items():
        for target in page.loads:
            assert "//" not in target and (path.parent / target.split("?")[0]).exists(), target
        for link in page.links:
            if "://" in link or link.startswith("mailto:"):
                continue
            place, _, anchor = unquote(link).partition("#")
            to = (path.parent / place).resolve() if place else path
            to = to / "index.html" if to.is_dir() else to
            assert to.exists(), f"{path.name}: {link}"
            if anchor and to in pages and not anchor.startswith("__"):
                assert anchor in pages[to].anchors, f"{path.name}: {link}"
    index = (built / "search" / "search_index.js").read_text()
    assert "train.html" in index and "recipes/quickstart.py" in index
    assert "results/quickstart/log.csv" not in index


@pytest.fixture
def browser(tmp_path):
    """A fresh browser, which is closed whatever happens."""
    with contextlib.closing(Chromium(tmp_path / "profile")) as opened:
        yield opened


@pytest.mark.slow
@needs_chromium
def test_pages_fit_wide_and_narrow_windows_and_search_works_without_a_server(built, browser):
    for page in ("index", "from", "zoo", "reference", "performance", "files/recipes/quickstart.py"):
        for width in (1400, 420):
            browser.send(
                "Emulation.setDeviceMetricsOverride",
                width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
            )  # fmt: skip
            browser.open((built / f"{page}.html").as_uri())
            browser.wait(
                f"location.href.endsWith('{page}.html') && document.readyState == 'complete'"
            )
            assert browser.run("document.documentElement.scrollWidth") <= width, page
    browser.run("document.querySelector('[data-md-component=search-query]').focus()")
    browser.send("Input.insertText", text="cosine schedule")
    titles = "[...document.querySelectorAll('.md-search-result__item h1')].map(e => e.textContent)"
    browser.wait(f"{titles}.length > 0")
    assert any("cifar10_resnet20" in title for title in browser.run(titles))
    assert not browser.complaints
    assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in browser.requests)
