"""Completes the site that mkdocs builds from docs/: README, API reference, files that are linked.

    mkdocs build --strict

mkdocs.yml names this file as a hook. The pages in docs/ are written for GitHub, where links lead to
any file of the repository. On the site, each of these files gets a page, so that it is complete
without a network.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import resnet_keras

ROOT = Path(__file__).parents[1]

# A link or an image, and a block of code, in which brackets mean something else.
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
BLOCK = re.compile(r"(^```.*?^```$)", re.M | re.S)

# The public names by what they are for.
REFERENCE = {
    "Networks": ("ResNet", "ResNetV1D", "Spec", "SPECS", "features", "freeze"),
    "Weights": ("load_weights", "convert", "pretrained", "Pretrained"),
    "Training": ("Recipe", "train"),
    "Optimizers": ("SGD", "LARS", "LAMB", "AdamW"),
    "Evaluation and export": ("evaluate", "predict", "export", "Preprocessing"),
}

LANGUAGES = {".py": "python", ".json": "json", ".csv": "text", ".sh": "sh"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    files.append(File.generated(config, "reference.md", content=_reference()))
    for path in _linked():
        files.append(File.generated(config, _address(path), content=_content(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    origin = _ORIGINS.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def on_site(match: re.Match) -> str:
        path = _target(origin, match[1])
        if path is None:
            return match[0]
        here = posixpath.dirname(page.file.src_uri)
        return f"]({posixpath.relpath(_address(path), here or '.')}{match[2] or ''})"

    parts = BLOCK.split(markdown)
    parts[::2] = [LINK.sub(on_site, text) for text in parts[::2]]
    return "".join(parts)


# Of a page on the site: the file of the repository, where it is not the one in docs/.
_ORIGINS: dict[str, str] = {}


def _linked() -> Iterator[str]:
    """Paths of the README and of everything outside docs/ that pages link to, once each."""
    waiting = ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            _ORIGINS[_address(path)] = path
            yield path
        for target in _targets(path):
            if target not in seen and not target.startswith("docs/"):
                seen.add(target)
                waiting.append(target)


def _targets(path: str) -> list[str]:
    """Files and folders that a page or a folder leads to."""
    place = ROOT / path
    if place.is_dir():
        return [f"{path}/{entry.name}" for entry in sorted(place.iterdir())]
    if place.suffix not in (".md", ".ipynb"):
        return []
    outside = "".join(BLOCK.split(_markdown(path))[::2])
    found = [_target(path, match[1]) for match in LINK.finditer(outside)]
    return [target for target in found if target is not None]


def _target(origin: str, link: str) -> str | None:
    """The path that a link in a file means; None if it leads out of the repository."""
    if "://" in link or link.startswith("mailto:"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _address(path: str) -> str:
    """Where a file of the repository is on the site."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".md") or _is_binary(path):
        return f"files/{path}"
    return f"files/{path}.md"


def _is_binary(path: str) -> bool:
    return path.endswith((".png", ".xz"))


def _content(path: str) -> str | bytes:
    """A page with the contents of a file or a folder; the bytes of a file that is no text."""
    place = ROOT / path
    if _is_binary(path):
        return place.read_bytes()
    if place.suffix in (".md", ".ipynb"):
        return _markdown(path)
    # Numbers of runs would be found by every search.
    head = "---\nsearch:\n  exclude: true\n---\n" if path.startswith("results") else ""
    if place.is_dir():
        name = posixpath.basename(path)
        entries = [
            f"- [{target}]({name}/{posixpath.basename(target)})" for target in _targets(path)
        ]
        return "\n".join([f"{head}# {path}", "", *entries, ""])
    return f"{head}# {path}\n\n````{LANGUAGES.get(place.suffix, 'text')}\n{place.read_text()}````\n"


def _markdown(path: str) -> str:
    """The text of a page; of a notebook, its cells one after the other."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if not path.endswith(".ipynb"):
        return text
    cells: list[dict[str, Any]] = json.loads(text)["cells"]
    shown = []
    for cell in cells:
        source = "".join(cell["source"])
        shown.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(shown) + "\n"


def _reference() -> str:
    """The API: a heading and mkdocstrings' mark for each public name.

    Raises:
        ValueError: the page lacks a public name, or has one that is gone.
    """
    listed = {name for names in REFERENCE.values() for name in names}
    if odd := listed ^ set(resnet_keras.__all__):
        raise ValueError(f"REFERENCE in tools/site.py and resnet_keras.__all__ differ: {odd}")
    lines = [
        "# API reference",
        "",
        "All names are imported from `resnet_keras`: `from resnet_keras import ResNet`.",
        "",
    ]
    for title, names in REFERENCE.items():
        lines += [f"## {title}", ""]
        for name in names:
            module = resnet_keras._MODULES[name]
            if module == "optimizers":  # which loads each when it is asked for
                module += f".{name.lower()}"
            lines += [f"::: resnet_keras.{module}.{name}", ""]
    return "\n".join(lines)
