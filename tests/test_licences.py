"""Every distribution that is needed is listed with a licence, and what is copied has its text."""

import lzma
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "licences.py"))
VENDORED = ROOT / "resnet_keras" / "exporting" / "page" / "onnxruntime-web"


def test_everything_pinned_has_a_licence_on_the_page():
    page = (ROOT / "docs" / "licences.md").read_text()
    assert len(TOOL["pinned"]()) > 15
    for name in TOOL["pinned"]():
        assert f"| **{name}** | {TOOL['licence'](name)} |" in page
    assert "not said" not in page and "UNKNOWN" not in page


def test_everything_that_is_needed_is_on_the_page():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "licences.py", "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {"h5py", "absl-py", "keras"} <= TOOL["closure"]()
    assert {"pytest", "mkdocs", "build"} <= TOOL["tools"]()


def test_what_is_copied_has_its_licence_beside_it():
    assert "MIT License" in (VENDORED / "LICENSE").read_text()
    notices = lzma.decompress((VENDORED / "ThirdPartyNotices.txt.xz").read_bytes()).decode()
    assert "protobuf" in notices.lower() and len(notices) > 10_000
