"""Find the cheapest model that meets a requirement, and keep the evidence."""

from calibrant.tuner.evaluator import Command, Runner
from calibrant.tuner.requirement import Requirement
from calibrant.tuner.result import TuningResult
from calibrant.tuner.road import tune

__all__ = ["Command", "Requirement", "Runner", "TuningResult", "tune"]
