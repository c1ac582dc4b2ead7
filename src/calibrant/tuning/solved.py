"""What a road leads to: a solution, and what was found on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from calibrant.analysis.probe import Probe
from calibrant.analysis.simulate import Simulator
from calibrant.findings import Findings
from calibrant.solution import Solution
from calibrant.stats import Statistics, TensorStats
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
        halves: What even feeds of the probe are judged by, and what odd ones are: statistics of the other half.
        simulator: Runs the simulated model.
    """

    solution: Solution
    findings: Findings
    statistics: Statistics
    probe: Probe | None
    guide: Guide | None = None
    halves: tuple[Mapping[str, TensorStats], Mapping[str, TensorStats]] | None = None
    simulator: Simulator | None = None
