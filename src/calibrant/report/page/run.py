"""A run folder, read: every file of it that a report shows, as a typed value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrant.errors import ConfigValueError
from calibrant.report.evidence.commands import COMMANDS_FILE, Commands
from calibrant.report.evidence.distributions import DISTRIBUTIONS_FILE, Distributions
from calibrant.report.evidence.files import read_json, read_value
from calibrant.report.evidence.network import GRAPH_FILE, Network
from calibrant.report.page.debugged import Debugged, is_debugged
from calibrant.report.page.measured import Advised, Comparison, Origins, Rank

__all__ = ["Run", "read_run"]

SUMMARY, PLAN = "summary.json", "plan.json"
ORIGINS, RANK, COMPARISON = "attribution.json", "sensitivity.json", "compare.json"
TUNING, ADVICE = "tuning_report.json", "advice.json"

#: One of these makes a folder a run.
MAIN = (SUMMARY, COMPARISON, RANK, ADVICE)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run left; None where a file is not there.

    Args:
        name: What the page calls the run: the folder.
        summary: `summary.json`, of quantize.
        plan: `plan.json`, of quantize.
        network: The float model that the layers are of.
        distributions: What was seen of tensors and weights.
        origins: Where the errors of layers come from.
        rank: What each layer loses.
        comparison: Two models, layer by layer.
        advice: What to do about a loss.
        commands: What was called.
        tuning: `tuning_report.json`, of tune.
        debugged: What `debug runall` left.
        notes: What was left out, and why.
    """

    name: str
    summary: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    network: Network | None = None
    distributions: Distributions | None = None
    origins: Origins | None = None
    rank: Rank | None = None
    comparison: Comparison | None = None
    advice: Advised | None = None
    commands: Commands | None = None
    tuning: dict[str, Any] | None = None
    debugged: Debugged | None = None
    notes: tuple[str, ...] = ()


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read a run folder.

    Files that `summary.json` does not list and that are older than it belong to an earlier run into the same folder; they
    are left out, and named in the notes.

    Args:
        folder: The folder.
        name: What the page calls it; None for its path.

    Raises:
        ConfigValueError: It holds no run, or a file that is damaged.
    """
    if not folder.is_dir():
        raise ConfigValueError(
            f"'{folder}' is no folder. A report is made from the folder of a run."
        )
    there = {p.name for p in folder.iterdir() if p.is_file()}
    if not there & {*MAIN}:
        raise ConfigValueError(
            f"'{folder}' holds no run: there is none of {', '.join(MAIN)}. They are written by 'calibrant quantize', "
            "'calibrant tune', 'calibrant compare', 'calibrant sensitivity' and 'calibrant advise' with --out, and by "
            "'calibrant debug runall'."
        )
    summary = read_json(folder / SUMMARY) if SUMMARY in there else None
    title = name if name is not None else str(folder)
    if summary is not None and is_debugged(summary):
        return _debugged(folder, there, summary, title)
    _check_summary(summary, folder)
    old = _of_before(folder, there, summary)
    there -= old

    def value(file: str, kind: type[Any]) -> Any:
        return read_value(folder / file, kind) if file in there else None

    comparison = value(COMPARISON, Comparison)
    origins = value(ORIGINS, Origins)
    if origins is None and comparison is not None:
        origins = comparison.origins
    return Run(
        title,
        summary,
        read_json(folder / PLAN) if PLAN in there else None,
        value(GRAPH_FILE, Network),
        value(DISTRIBUTIONS_FILE, Distributions),
        origins,
        value(RANK, Rank),
        comparison,
        value(ADVICE, Advised),
        value(COMMANDS_FILE, Commands),
        read_json(folder / TUNING) if TUNING in there else None,
        notes=tuple(f"'{n}' is older than '{SUMMARY}' and was left out." for n in sorted(old)),
    )


def _debugged(folder: Path, there: set[str], summary: dict[str, Any], name: str) -> Run:
    """Return a run of the debug tool: its ranking is one of layers, as `sensitivity` makes it."""
    found = Debugged.read(folder, summary)
    network = read_value(folder / GRAPH_FILE, Network) if GRAPH_FILE in there else None
    commands = read_value(folder / COMMANDS_FILE, Commands) if COMMANDS_FILE in there else None
    return Run(name, network=network, rank=found.rank(name), commands=commands, debugged=found)


def _check_summary(summary: dict[str, Any] | None, folder: Path) -> None:
    if summary is not None and "calibrant" not in summary:
        raise ConfigValueError(f"'{folder / SUMMARY}' is no summary of calibrant's.")


def _of_before(folder: Path, there: set[str], summary: dict[str, Any] | None) -> set[str]:
    """Return files that belong to an earlier run."""
    if summary is None:
        return set()
    names = summary.get("files")
    listed = set(names) if isinstance(names, list) else set()
    when = (folder / SUMMARY).stat().st_mtime
    shown = {
        PLAN,
        GRAPH_FILE,
        DISTRIBUTIONS_FILE,
        ORIGINS,
        RANK,
        COMPARISON,
        ADVICE,
        COMMANDS_FILE,
        TUNING,
    }
    return {n for n in there & shown - listed if (folder / n).stat().st_mtime < when}
