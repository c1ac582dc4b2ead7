"""Statistics of the probe in two halves, so that ranges are never judged on the samples they come from.

Feeds of the probe belong in turn to one half and to the other. Ranges from one half are judged on the other; at the
end both halves and the rest of the data are merged, which costs nothing (`stats`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.runtime.observe import observe
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
        feeds: How many feeds of the probe were seen, from the first on.
    """

    model: ir.Model
    tensors: Sequence[str]
    axes: Mapping[str, Sequence[int]]
    probe: Probe
    exact: bool = False
    runtime: Runtime = CPU
    feeds: int = 0
    _halves: dict[int, Seen] = field(default_factory=dict)

    def see(self, feeds: int) -> int:
        """Look at more feeds, up to so many in all; return how many samples were run."""
        new = range(self.feeds, min(feeds, len(self.probe.small)))
        ran = 0
        for half in (0, 1):
            batches = [self.probe.small[i] for i in new if i % 2 == half]
            if batches and self.tensors:
                ran += sum(b.size for b in batches)
                seen = observe(
                    self.model,
                    self.tensors,
                    batches,
                    per_channel=self.axes,
                    exact=self.exact,
                    runtime=self.runtime,
                )
                self._halves[half] = merged(self._halves.get(half), seen)
        self.feeds = max(self.feeds, feeds)
        return ran

    def hold(self, tensors: Sequence[str], axes: Mapping[str, Sequence[int]]) -> bool:
        """Whether tensors are looked at, with each channel by itself along these axes."""
        return all(
            t in self.tensors and set(axes.get(t, ())) <= set(self.axes.get(t, ()))
            for t in tensors
        )

    def apart_from(self, feed: int) -> Seen:
        """Return what was seen of the half that a feed does not belong to."""
        return self._halves.get(1 - feed % 2, {})

    @property
    def whole(self) -> Seen | None:
        """What was seen of both halves; None where nothing was."""
        found: Seen | None = None
        for half in self._halves.values():
            found = merged(found, half)
        return found


def merged(one: Seen | None, other: Seen) -> Seen:
    """Return the statistics of the data of both."""
    if one is None:
        return other
    return {t: s.merge(other[t]) for t, s in one.items()}
