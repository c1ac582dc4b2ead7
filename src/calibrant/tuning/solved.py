"""What a road leads to: a solution, and what was found on the way."""

from __future__ import annotations

from dataclasses import dataclass

from calibrant.analysis.probe import Probe
from calibrant.analysis.simulate import Simulator
from calibrant.findings import Findings
from calibrant.solution import Solution
from calibrant.stats import Statistics
from calibrant.tuning.folds import Folds
from calibrant.tuning.guide import Guide

__all__ = ["Solved"]


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """What the road leads to.

    Args:
        solution: What was decided.
        findings: What was found on the way.
        statistics: What was seen of each tensor.
        probe: The samples that things were tried on, and what the float model answers to them; None without data.
        guide: What was decided, for recipes that differ in widths alone.
        folds: Statistics of the probe by half.
        simulator: Runs the simulated model.
    """

    solution: Solution
    findings: Findings
    statistics: Statistics
    probe: Probe | None
    guide: Guide | None = None
    folds: Folds | None = None
    simulator: Simulator | None = None
