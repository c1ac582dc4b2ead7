"""Which layers go back to float until the accuracy is there, as the Ascend tools decide it; the decisions alone.

1. Everything that the configuration enables is quantized and evaluated; layers are ranked by what each alone makes of float
   inputs (`diagnose.own_outputs`), the least similar first, equal ones in the order of the configuration.
2. Where the requirement is met, that is the result. Otherwise the number of leading layers that go back is searched for:

       left = 0, right = n - 1
       mid = (left + right) // 2; layers 0 … mid go back to float; evaluate
       met: right = mid - 1, else left = mid + 1; until left > right

3. Where the last evaluation did not meet it, the last configuration that did is evaluated again, and stands.
4. A configuration in which every layer is back is not evaluated: it ends the search, and there is no result.

A configuration says for each layer whether it stays quantized. A strategy of the user's own may take the place of the search.

Source: accuracy_based_auto_calibration of the Ascend Model Compression Toolkit, as its public documentation describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.tuning.driver import Strategy

__all__ = [
    "BinarySearch",
    "Configured",
    "Kept",
    "MetricEval",
    "Ranked",
    "RollBack",
    "RollBackQuestion",
    "RollBackStrategy",
    "roll_back",
]

#: Layer -> whether it stays quantized.
Kept = dict[str, bool]

#: Whether the requirement is met, and what was lost.
MetricEval = tuple[bool, float]


@dataclass(frozen=True, slots=True)
class Ranked:
    """How similar is what each layer alone gives? Answer: layer -> similarity, in the order of the configuration."""


@dataclass(frozen=True, slots=True)
class Configured:
    """What does a configuration reach? Answer: `MetricEval`.

    Args:
        kept: (layer, whether it stays quantized); None for everything that the configuration enables.
    """

    kept: tuple[tuple[str, bool], ...] | None = None


RollBackQuestion = Ranked | Configured


class RollBackStrategy(Protocol):
    """Decides which layers go back to float."""

    def initialize(self, ranking_info: dict[str, float]) -> None:
        """Take the ranking: layer -> similarity, smaller for layers that lose more."""
        ...

    def update_quant_config(self, metric_eval: MetricEval) -> Any:
        """Take what the last configuration reached, and return a mapping: `stop_flag`, and the next `roll_back_config`."""
        ...


class BinarySearch:
    """The number of leading layers that go back to float, by halving."""

    def __init__(self) -> None:
        """Begin with no layers."""
        self._order: tuple[str, ...] = ()
        self._left, self._mid, self._right = 0, 0, -1
        self._begun = False
        self._met: Kept | None = None

    def initialize(self, ranking_info: dict[str, float]) -> None:
        """Sort layers by similarity, equal ones as they come."""
        self._order = tuple(sorted(ranking_info, key=lambda n: ranking_info[n]))
        self._left, self._right = 0, len(self._order) - 1
        self._begun, self._met = False, None

    def update_quant_config(self, metric_eval: MetricEval) -> dict[str, Any]:
        """Return what is tried next; with `stop_flag`, what stands."""
        if self._begun:
            if metric_eval[0]:
                self._met = self._first(self._mid)
                self._right = self._mid - 1
            else:
                self._left = self._mid + 1
            if self._left > self._right:
                stands = self._met if self._met is not None else self._first(len(self._order))
                return {"stop_flag": True, "roll_back_config": stands}
        self._begun = True
        self._mid = (self._left + self._right) // 2
        return {"stop_flag": False, "roll_back_config": self._first(self._mid)}

    def _first(self, last: int) -> Kept:
        """Return the configuration in which the layers up to this one are back in float."""
        return {n: i > last for i, n in enumerate(self._order)}


@dataclass(frozen=True, slots=True)
class RollBack:
    """What the procedure ended with.

    Args:
        outcome: `quantized` where nothing went back, `partial`, or `all rolled back`, in which case there is no result.
        kept: Layer -> whether it stays quantized.
        ranking: Layer -> similarity, in the order of the configuration.
        history: Each configuration that was evaluated, and what it reached, in order; where all layers are back, also that
            one, which stands for the float model and is not evaluated.
    """

    outcome: Literal["quantized", "partial", "all rolled back"]
    kept: Mapping[str, bool]
    ranking: Mapping[str, float]
    history: tuple[tuple[Mapping[str, bool], MetricEval], ...]

    @property
    def ordered(self) -> list[tuple[str, float]]:
        """The ranking, the layer that loses most first."""
        return sorted(self.ranking.items(), key=lambda item: item[1])

    def history_content(self) -> list[dict[str, Any]]:
        """Return the history as plain values."""
        return [
            {"roll_back_config": dict(kept), "metric_eval": [bool(said[0]), float(said[1])]}
            for kept, said in self.history
        ]


def roll_back(
    float_loss: MetricEval, strategy: RollBackStrategy | None = None
) -> Strategy[RollBackQuestion, Any, RollBack]:
    """Return which layers stay quantized.

    Args:
        float_loss: What the float model reaches against itself, for a history that ends with it.
        strategy: What decides which layers go back; None for the binary search.

    Raises:
        ConfigValueError: The strategy names a layer that is not quantized, or leaves its keys out.
        ConfigTypeError: The strategy returns no mapping.
    """
    strategy = strategy if strategy is not None else BinarySearch()
    said: MetricEval = yield Configured()
    ranking: Mapping[str, float] = yield Ranked()
    everything = dict.fromkeys(ranking, True)
    history: list[tuple[Mapping[str, bool], MetricEval]] = [(everything, said)]
    if said[0]:
        return RollBack("quantized", everything, ranking, tuple(history))
    if not ranking:
        return RollBack("all rolled back", {}, ranking, tuple(history))
    strategy.initialize(dict(ranking))
    evaluated: Kept = {}
    stop = False
    while not stop:
        stop, kept = _checked(strategy.update_quant_config(said), ranking)
        if stop and kept == evaluated:
            break
        if not any(kept.values()):
            return RollBack("all rolled back", kept, ranking, (*history, (dict(kept), float_loss)))
        said = yield Configured(tuple(kept.items()))
        history.append((dict(kept), said))
        evaluated = kept
    return RollBack("partial", evaluated, ranking, tuple(history))


def _checked(answer: Any, ranking: Mapping[str, float]) -> tuple[bool, Kept]:
    """Return what a strategy says, of every layer: one that it does not name stays quantized."""
    if not isinstance(answer, Mapping):
        raise ConfigTypeError(
            f"update_quant_config returns a {type(answer).__name__}; it returns a mapping with stop_flag and roll_back_config."
        )
    missing = [k for k in ("stop_flag", "roll_back_config") if k not in answer]
    if missing:
        raise ConfigValueError(f"update_quant_config returns a mapping without '{missing[0]}'.")
    said = answer["roll_back_config"]
    unknown = [n for n in said if n not in ranking]
    if unknown:
        raise ConfigValueError(
            f"update_quant_config names layer '{unknown[0]}', which is not quantized."
        )
    kept = {n: bool(v) for n, v in said.items()}
    return bool(answer["stop_flag"]), kept | {n: True for n in ranking if n not in kept}
