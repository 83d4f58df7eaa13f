"""What mkdocs.yml can't say: pages above docs/ join the site, and API pages are made of docstrings.

Links between pages stay as they are on disk, so that they work wherever the files are read.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import profilers
import tfnas

ROOT = Path(__file__).parents[1]
# Files of the repository, and what they are called in the site where docs/ has that name already.
ABOVE = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "benchmarks/README.md": "benchmarks/README.md",
    "benchmarks/LOG.md": "benchmarks/LOG.md",
    "latency_tables/README.md": "latency_tables/README.md",
}
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#]+)")
NOT_RUN = re.compile(r"^(```\w+) not-run$", re.MULTILINE)  # a mark of the tests


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that don't lie in docs/."""
    for source, name in ABOVE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    for package in (tfnas, profilers):
        name = package.__name__
        page = f"# {name}\n\n" + "".join(f"::: {name}.api.{n}\n\n" for n in package.__all__)
        files.append(File.generated(config, f"api/{name}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of the repository as the site has their targets; blocks without their marks."""
    name = page.file.src_uri
    sources = {site: source for source, site in ABOVE.items()}
    here = posixpath.dirname(sources.get(name, f"docs/{name}"))

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, link[2]))
        target = ABOVE.get(target, target.removeprefix("docs/"))
        return link[1] + posixpath.relpath(target, posixpath.dirname(name) or ".")

    return LINK.sub(moved, NOT_RUN.sub(r"\1", markdown))
