"""Pictures: drawn by matplotlib without a screen, and as pages with names on hover by plotly (the extra `debug`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from calibrant.errors import MissingPackageError, OutputError

__all__ = [
    "check_pictures",
    "file_names",
    "new_figure",
    "plotly_figure",
    "shortened",
    "write_page",
    "write_picture",
]

#: Dots per inch of a picture, whose sizes are in inches.
DPI = 100

_SIGNS = re.compile(r"[^A-Za-z0-9._-]+")

#: Longest name of a file, without its ending; file systems take 255 bytes.
_LONGEST = 120

#: Signs in the title of a picture.
_TITLE = 60


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of this size [inches].

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise MissingPackageError(_MISSING.format("matplotlib")) from e
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


_MISSING = 'Pictures of the debug tool ask for the package {}, which is not installed: pip install "calibrant[debug]".'


def check_pictures() -> None:
    """Raise before the work where no picture can be drawn after it.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    new_figure(1, 1)


def plotly_figure() -> Any:
    """Return an empty plotly figure.

    Raises:
        MissingPackageError: plotly is not installed.
    """
    try:
        from plotly.graph_objects import Figure
    except ImportError as e:
        raise MissingPackageError(_MISSING.format("plotly")) from e
    return Figure()


def write_picture(figure: Any, path: Path) -> Path:
    """Write a figure as PNG; the folder is made if it is not there.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as e:
        raise OutputError(f"'{path}' cannot be written: {e.strerror or e}.") from e
    return path


def write_page(figure: Any, path: Path) -> Path:
    """Write a plotly figure as a page that opens offline; plotly's script lies beside it, once a folder.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.write_html(path, include_plotlyjs="directory")
    except OSError as e:
        raise OutputError(f"'{path}' cannot be written: {e.strerror or e}.") from e
    return path


def shortened(name: str) -> str:
    """Return a name that fits the title of a small picture: the end of a long one."""
    return name if len(name) <= _TITLE else f"…{name[-_TITLE + 1 :]}"


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return a name for the file of each node: signs that do not go well there are `_`, and no two are equal.

    Example:
        >>> file_names(["/a/Conv", "_a_Conv", "x:0"])
        {'/a/Conv': '_a_Conv', '_a_Conv': '_a_Conv_1', 'x:0': 'x_0'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        stem = _SIGNS.sub("_", name)[-_LONGEST:] or "_"
        candidate, n = stem, 1
        while candidate.lower() in taken:  # some file systems do not tell A from a
            candidate, n = f"{stem}_{n}", n + 1
        taken.add(candidate.lower())
        found[name] = candidate
    return found
