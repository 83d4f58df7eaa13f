"""What people and tools find at the root: citation, notebook, site."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import profilers
import tfnas
from tests.support.entry import REPOSITORY, environment
from tests.support.pages import blocks, commands, name
from tests.test_docs import accept

CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
ELSEWHERE = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//")


def test_the_citation_has_what_its_schema_requires() -> None:
    found = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert found["cff-version"] == "1.2.0"
    assert found["version"] == tfnas.__version__
    (paper,) = found["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["url"] == "https://arxiv.org/abs/2008.05314"


def test_what_contributors_type_is_accepted(tmp_path: Path) -> None:
    for module, arguments in commands(CONTRIBUTING):
        accept(module, arguments, REPOSITORY)
    for link in re.findall(r"\]\(([^)#]+)", CONTRIBUTING.read_text()):
        assert (REPOSITORY / link).exists(), link
    assert any(block.language == "sh" for block in blocks(CONTRIBUTING)), name(CONTRIBUTING)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    file = tmp_path / "quickstart.ipynb"
    text = (REPOSITORY / "docs" / file.name).read_text()
    assert not any(cell.get("outputs") for cell in json.loads(text)["cells"])  # none are kept
    file.write_text(text)
    own = {"IPYTHONDIR": tmp_path, "JUPYTER_RUNTIME_DIR": tmp_path, "TMPDIR": tmp_path}
    done = subprocess.run(
        [sys.executable, "-c", "from nbclient.cli import main; main()", file.name, "--inplace"],
        cwd=tmp_path, env={**environment(), **{key: str(path) for key, path in own.items()}},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = json.loads(file.read_text())["cells"][-1]["outputs"][-1]
    assert "455 M multiply-adds, 7.49 M parameters" in "".join(last["text"])


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 15
    for path, text in pages.items():
        assert not ELSEWHERE.search(text), path
    for package in (tfnas, profilers):
        text = pages[tmp_path / "site" / "api" / package.__name__ / "index.html"]
        for public in package.__all__:
            assert f'id="{package.__name__}.api.{public}"' in text, public
