"""What to do about a loss: where it comes from, what could be done there, and what each of that is worth, measured."""

from calibrant.diagnose.advice.road import advise
from calibrant.diagnose.advice.steps import Advice, Step

__all__ = ["Advice", "Step", "advise"]
