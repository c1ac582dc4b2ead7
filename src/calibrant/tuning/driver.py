"""One loop for every way of choosing.

A strategy is a generator. It yields a question (a recipe, a candidate, a setting to try), is sent what that
reached, and returns its choice. It runs no model and keeps no time, so it is tested with invented answers:

    def first_good(names):
        for name in names:
            score = yield name
            if score > 20:
                return name
        return None

    drive(first_good(["a", "b"]), {"a": 3.0, "b": 30.0}.__getitem__)     # → "b"

The driver owns the loop: it gives each question to `answer`, and tells how many were asked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from calibrant.progress import Progress

__all__ = ["Strategy", "drive"]

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Choice = TypeVar("Choice")

Strategy = Generator[Question, Answer, Choice]


def drive(
    strategy: Strategy[Question, Answer, Choice],
    answer: Callable[[Question], Answer],
    *,
    progress: Progress | None = None,
    of: int | None = None,
) -> Choice:
    """Run a strategy to its choice.

    Args:
        strategy: What asks.
        answer: Returns what a question reached; this is where models run.
        progress: Told how many questions were asked.
        of: How many there will be, where that is known.

    Example:
        >>> def largest(numbers):
        ...     best = None
        ...     for n in numbers:
        ...         square = yield n
        ...         if best is None or square > best[0]:
        ...             best = square, n
        ...     return best[1]
        >>> drive(largest([1, -3, 2]), lambda n: n * n)
        -3
    """
    asked = 0
    try:
        question = next(strategy)
        while True:
            reached = answer(question)
            asked += 1
            if progress is not None:
                progress.step(asked, of)
            question = strategy.send(reached)
    except StopIteration as end:
        choice: Choice = end.value
        return choice
