"""Statistics of the probe in two halves, so that ranges are never judged on the samples they come from.

Feeds of the probe belong in turn to one half and to the other. Ranges from one half are judged on the other; at the
end both halves and the rest of the data are merged, which costs nothing (`stats`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.runtime.heap import give_back
from calibrant.runtime.observe import Ends, Hearing, Observer
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.stats import TensorStats

__all__ = ["Folds"]

Seen = dict[str, TensorStats]


@dataclass(slots=True, eq=False)
class Folds:
    """What was seen of one model on the probe, by half.

    Args:
        model: The float model.
        tensors: Tensors that are looked at.
        axes: Tensor -> axes along which each channel is observed by itself.
        probe: The samples.
        exact: Keep raw values.
        runtime: Where it runs.
        base: What is seen of the same model for another plan: its tensors are not looked at again, unless channels
            of them are asked for that it does not have.
        feeds: How many feeds of the probe were seen, from the first on.
        ends: Told the values, where feeds are looked at for the first time.
        tops: Tensors of which the largest value of each channel was asked for.
        hearing: Told the outputs, too; None where nobody has to hear them.
    """

    model: ir.Model
    tensors: Sequence[str]
    axes: Mapping[str, Sequence[int]]
    probe: Probe
    exact: bool = False
    runtime: Runtime = CPU
    base: Folds | None = None
    feeds: int = 0
    ends: Ends | None = None
    hearing: Hearing | None = None
    tops: frozenset[str] = frozenset()
    _halves: dict[int, Seen] = field(default_factory=dict)
    _observer: Observer | None = None

    def see(self, feeds: int) -> int:
        """Look at more feeds, up to so many in all; return how many samples were run."""
        ran = self.base.see(feeds) if self.base is not None else 0
        new = range(self.feeds, min(feeds, len(self.probe.small)))
        own = self._own
        ends = self.ends if not self.feeds else None
        listeners = [x for x in (ends, self.hearing) if x is not None]
        for half in (0, 1):
            batches = [self.probe.small[i] for i in new if i % 2 == half]
            if batches and own:
                ran += sum(b.size for b in batches)
                if self._observer is None:
                    self._observer = Observer(
                        self.model,
                        own,
                        per_channel=self.axes,
                        exact=self.exact,
                        runtime=self.runtime,
                        beside=self.hearing.names if self.hearing is not None else (),
                    )
                seen = self._observer.see(batches, listeners=listeners)
                self._halves[half] = _merged(self._halves.get(half), seen)
        self.feeds = max(self.feeds, feeds)
        return ran

    def forget(self) -> None:
        """Let go of what was seen, too; it is looked at again where it is asked for."""
        self.close()
        self._halves.clear()
        self.feeds = 0

    def close(self) -> None:
        """Let go of the models that are open; they are opened again where more is asked for."""
        if self._observer is not None:
            self._observer = None
            give_back()
        if self.base is not None:
            self.base.close()

    @property
    def _own(self) -> list[str]:
        """Tensors that are not looked at for the base."""
        base = self.base
        if base is None:
            return list(self.tensors)
        return [t for t in self.tensors if not base.hold([t], self.axes)]

    def hold(self, tensors: Sequence[str], axes: Mapping[str, Sequence[int]]) -> bool:
        """Whether tensors are looked at, with each channel by itself along these axes."""
        return all(
            t in self.tensors and set(axes.get(t, ())) <= set(self.axes.get(t, ()))
            for t in tensors
        )

    def ends_of(self, tensor: str, axis: int) -> Ends | None:
        """Return what was seen of the channels of a tensor, here or for the base; None where nothing was."""
        folds: Folds | None = self
        while folds is not None:
            if folds.ends is not None and folds.ends.holds(tensor, axis):
                return folds.ends
            folds = folds.base
        return None

    def apart_from(self, feed: int) -> Seen:
        """Return what was seen of the half that a feed does not belong to."""
        own = self._halves.get(1 - feed % 2, {})
        if self.base is None:
            return own
        shared = self.base.apart_from(feed)
        return {
            t: own[t] if t in own else shared[t] for t in self.tensors if t in own or t in shared
        }

    @property
    def halves(self) -> tuple[Seen, Seen] | None:
        """What even feeds are judged by, and what odd ones are; None before both halves were seen."""
        return (self.apart_from(0), self.apart_from(1)) if self.feeds >= 2 else None

    def whole(self, beside: dict[str, TensorStats] | None = None) -> dict[str, TensorStats]:
        """Return what was seen of both halves.

        Args:
            beside: What was seen of other data. It is put to the rest tensor by tensor, and is empty then: nobody has to hold
                both.
        """
        halves = [self.apart_from(feed) for feed in (1, 0)]
        found = {}
        for t in self.tensors:
            parts = [half[t] for half in halves if t in half]
            parts += [beside.pop(t)] if beside else []
            if parts:
                found[t] = reduce(TensorStats.merge, parts)
        return found


def _merged(one: Seen | None, other: Seen) -> Seen:
    """Return the statistics of the data of both."""
    if one is None:
        return other
    return {t: s.merge(other[t]) for t, s in one.items()}
