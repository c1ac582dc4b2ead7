"""Find the cheapest model that meets a requirement, and keep the evidence."""

from calibrant.tuner.own_code import Runner
from calibrant.tuner.own_command import Command
from calibrant.tuner.requirement import Requirement
from calibrant.tuner.result import TuningResult
from calibrant.tuner.road import tune

__all__ = ["Command", "Requirement", "Runner", "TuningResult", "tune"]
