"""Files that a vendor's tools and their users know by name, written beside ours.

Each format is one file here: a function that answers with models and texts by file name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.findings import Findings
from calibrant.formats._files import Files
from calibrant.formats.ascend.files import ascend_files
from calibrant.formats.horizon.files import horizon_files
from calibrant.graph.interface import check_interface
from calibrant.graph.passes.fix_inputs import with_kept_inputs
from calibrant.solution import CALIBRATION, Built, Solution

__all__ = ["FORMATS", "Files", "artefacts", "check_formats"]

#: Name of a format -> what it writes of a solution, under a prefix.
FORMATS: dict[str, Callable[[Solution, Built, Findings, str], Files]] = {
    "ascend": ascend_files,
    "horizon": horizon_files,
}


def check_formats(formats: Sequence[str], prefix: str) -> None:
    """Check what is asked for, before a long run rather than behind it.

    Raises:
        ConfigValueError: There is no such format, the prefix is no part of a file's name, or a prefix is
            given without a format.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigValueError(
                f"There is no format '{name}'; formats are {', '.join(sorted(FORMATS))}."
                + did_you_mean(name, FORMATS)
            )
    if any(c in prefix for c in "/\\\0"):
        raise ConfigValueError(
            f"The prefix {prefix!r} has a character that a file's name cannot have; the folder is said "
            "apart from it."
        )
    if prefix and not formats:
        raise ConfigValueError(
            f"The prefix '{prefix}' stands before the names of a format's files, and no format is given."
        )


def artefacts(
    solution: Solution, built: Built, findings: Findings, name: str, prefix: str = ""
) -> Files:
    """Return what one format writes of a result.

    Args:
        solution: What was decided.
        built: Its models.
        findings: What was found and measured.
        name: Name of the format, one of `FORMATS`.
        prefix: What the names begin with, an underscore behind it.

    Raises:
        ModelError: A model lacks an input or output of the float model, which is a fault of calibrant.
    """
    files = FORMATS[name](solution, built, findings, prefix)
    given = with_kept_inputs(solution.original, solution.original)
    models = {n: with_kept_inputs(m, solution.original) for n, m in files.models.items()}
    for file, model in models.items():
        check_interface(model, given, file)
    files = replace(files, models=models)
    calibration = built.deploy.metadata_props.get(CALIBRATION)
    return files.marked(calibration) if calibration else files
