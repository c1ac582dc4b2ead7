"""Hook of MkDocs: pages of the site that lie outside of docs/.

README, CHANGELOG, the examples and the benchmarks are pages where they lie in the repository. On the site they stand
below `project/`, and links that lead out of docs/, or from one of them, are written anew. Code and recipes that a page
links become a page with their text. A link to anything else is an error.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
BELOW = "project"

#: Pages of the navigation that lie outside of docs/.
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/README.md",
    "benchmarks/README.md",
)

LANGUAGES = {".py": "python", ".yaml": "yaml", "": "text"}
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`(?!\]))", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_config(config: Any) -> Any:
    """Make anchors as repository hosts do, so that a link to a heading is right there and on the site."""
    config.mdx_configs["toc"]["slugify"] = slug
    return config


def slug(heading: str, separator: str) -> str:
    """Return the anchor of a heading: lower case, signs left out, a hyphen for each blank."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", separator)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside of docs/, and what they or others link."""
    wanted = list(PAGES)
    for path in sorted((ROOT / "docs").rglob("*.md")):
        wanted += _outside(path, path.read_text(encoding="utf-8"))
    added: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in added:
            continue
        added.add(name)
        path = ROOT / name
        text = _page(path)
        level = InclusionLevel.INCLUDED if name in PAGES else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, _uri(path), content=text, inclusion=level))
        if path.suffix == ".md":
            wanted += _outside(path, text)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Write the links of a page as the site needs them."""
    if page.parent is None:  # a tab of one page
        page.meta["hide"] = ["navigation"]
    uri = page.file.src_uri
    own = _origin(uri)

    def written(match: re.Match[str]) -> str:
        target = (own.parent / match[1]).resolve()
        link = posixpath.relpath(_uri(target), posixpath.dirname(uri))
        return link + (match[2] or "")

    pieces = CODE.split(markdown)  # prose and code in turn
    pieces[::2] = [LINK.sub(written, prose) for prose in pieces[::2]]
    return "".join(pieces)


def _page(path: Path) -> str:
    """Return a file as Markdown; code stands in a block below its name."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path.name}\n\n```{LANGUAGES[path.suffix]}\n{text.rstrip()}\n```\n"


def _outside(path: Path, text: str) -> list[str]:
    """Return the files outside of docs/ that a page links, by their place in the repository."""
    found = []
    for match in LINK.finditer(CODE.sub("", text)):
        target = (path.parent / match[1]).resolve()
        if not target.is_relative_to(ROOT) or not target.is_file():
            raise PluginError(f"{path.relative_to(ROOT)} links {match[1]}, which is no file here.")
        if not target.is_relative_to(ROOT / "docs"):
            if target.suffix != ".md" and target.suffix not in LANGUAGES:
                raise PluginError(f"{path.relative_to(ROOT)} links {match[1]}: no text to show.")
            found.append(target.relative_to(ROOT).as_posix())
    return found


def _uri(path: Path) -> str:
    """Return where a file stands on the site, as a source."""
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    name = path.relative_to(ROOT).as_posix()
    return f"{BELOW}/{name}" if path.suffix == ".md" else f"{BELOW}/{name}.md"


def _origin(uri: str) -> Path:
    """Return the file that a source of the site is made from."""
    if not uri.startswith(f"{BELOW}/"):
        return ROOT / "docs" / uri
    name = uri.removeprefix(f"{BELOW}/")
    path = ROOT / name
    return path if path.is_file() else ROOT / name.removesuffix(".md")
