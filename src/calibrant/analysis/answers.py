"""What a float model answers to feeds: each is run when it is first asked for, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.simulate import is_light
from calibrant.data.batch import Batch
from calibrant.errors import DataError
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Answers", "Checking", "FloatAnswers"]

Array = npt.NDArray[Any]


class FloatAnswers:
    """Runs a float model on feeds that are asked for.

    Sessions of large models are closed behind each request, since weights are held once more as long as one is open.

    Args:
        of: The model.
        names: Tensors that are wanted.
        finite: Outputs that have to hold no NaN.
        runtime: Where it runs.
        said: Told how many samples were run.
    """

    def __init__(
        self,
        of: ir.Model,
        names: Sequence[str],
        finite: Sequence[str],
        runtime: Runtime = CPU,
        said: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Nothing is run yet."""
        self.of, self.names, self._finite = of, tuple(names), frozenset(finite)
        self._runtime, self._said = runtime, said
        self._light = is_light(of)
        self._heard: dict[int, dict[str, dict[int, Array]]] = {}
        self._session: ort.InferenceSession | None = None
        self._known: dict[int, dict[str, Array]] = {}
        self.feeds: Sequence[Batch] = ()

    def __deepcopy__(self, _: object) -> FloatAnswers:
        """Return itself: copies of what holds it ask for the same answers."""
        return self

    def asked(self, feeds: Sequence[int], *, more: bool = False) -> list[dict[str, Array]]:
        """Return the answers to some feeds, by their indices.

        Args:
            feeds: The indices.
            more: Others are asked for at once, and the model stays open.

        Raises:
            DataError: An answer holds NaN.
            ModelError: The model cannot be run on a feed.
        """
        for i in feeds:
            if i not in self._known:
                self._known[i] = self._run(self.feeds[i])
        if not (self._light or more):
            self._session = None
        return [self._known[i] for i in feeds]

    def hear(self, tensor: str, x: Array, batch: Batch, first: int) -> None:
        """Take values of a feed that somebody else has run, all at once or row by row: it is not run again.

        Args:
            tensor: One of the tensors, or another.
            x: Its values; they are copied.
            batch: The feed.
            first: Its sample that the values begin with.

        Raises:
            DataError: An output holds NaN.
        """
        if tensor in self._finite:
            _check(tensor, x, batch)
        place = next((i for i, b in enumerate(self.feeds) if b is batch), None)
        if tensor not in self.names or place is None or place in self._known:
            return
        heard = self._heard.setdefault(place, {n: {} for n in self.names})
        heard[tensor][first] = np.array(x)
        joined = {n: _joined(parts, batch.size) for n, parts in heard.items()}
        found = {n: x for n, x in joined.items() if x is not None and self._is_usual(n, x, batch)}
        if len(found) == len(self.names):
            self._known[place] = found
            del self._heard[place]

    def _is_usual(self, name: str, x: Array, batch: Batch) -> bool:
        """Whether values have the shape of the first feed's, each row a sample's: others may depend on how a feed is cut."""
        known = self._known.get(0, {}).get(name)
        if known is None or np.ndim(known) != x.ndim or x.ndim == 0:
            return False
        rows = len(known) * batch.size == len(x) * self.feeds[0].size
        return rows and known.shape[1:] == x.shape[1:]

    def _run(self, batch: Batch) -> dict[str, Array]:
        if self._session is None:
            self._session = open_session(expose(self.of, self.names), runtime=self._runtime)
        read = {i.name: batch.feeds[i.name] for i in self._session.get_inputs()}
        values = infer(self._session, self.names, read)
        self._said(batch.size)
        found = dict(zip(self.names, values, strict=True))
        for name in self._finite:
            _check(name, np.asarray(found[name]), batch)
        return found

    def checking(self) -> Checking:
        """Return who looks at outputs of another form of the model, whose values are not kept."""
        return Checking(tuple(n for n in self.names if n in self._finite))


@dataclass(frozen=True, slots=True)
class Checking:
    """Looks at the outputs of a form of the float model while somebody else runs it.

    Args:
        names: Outputs that have to hold no NaN.
    """

    names: tuple[str, ...]

    def hear(self, tensor: str, x: Array, batch: Batch, first: int) -> None:
        """Look at values of a tensor, those of the samples of a feed from `first` on.

        Raises:
            DataError: They hold NaN.
        """
        if tensor in self.names:
            _check(tensor, x, batch)


def _check(name: str, x: Array, batch: Batch) -> None:
    if x.dtype.kind == "f" and np.isnan(x).any():
        raise DataError(f"The float model's tensor '{name}' holds NaN for {batch}.")


def _joined(parts: Mapping[int, Array], size: int) -> Array | None:
    """Return the values of all samples of a feed; None where some are missing, or rows are no samples."""
    if any(x.ndim == 0 for x in parts.values()) or sum(map(len, parts.values())) != size:
        return None
    ends = 0
    for first in sorted(parts):
        if first != ends:
            return None
        ends += len(parts[first])
    return np.concatenate([parts[k] for k in sorted(parts)])


class Answers(Sequence[Mapping[str, Array]]):
    """Some tensors of the answers to some feeds; what a loop or a slice asks for is run together.

    Args:
        source: Runs the model.
        feeds: Indices of the feeds.
        names: The tensors.
    """

    def __init__(self, source: FloatAnswers, feeds: Sequence[int], names: Sequence[str]) -> None:
        """Nothing is run yet."""
        self.source, self._feeds, self._names = source, list(feeds), tuple(names)

    def only(self, places: Sequence[int]) -> Answers:
        """Return the answers at some places."""
        return Answers(self.source, [self._feeds[i] for i in places], self._names)

    def __len__(self) -> int:
        """How many feeds there are."""
        return len(self._feeds)

    @overload
    def __getitem__(self, at: int) -> Mapping[str, Array]: ...
    @overload
    def __getitem__(self, at: slice) -> list[Mapping[str, Array]]: ...
    def __getitem__(self, at: int | slice) -> Mapping[str, Array] | list[Mapping[str, Array]]:
        """Return the answer to one feed, or to some of them."""
        if isinstance(at, slice):
            return self._of(self._feeds[at])
        return self._of([self._feeds[at]])[0]

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        """Run what was not run yet, and yield all."""
        return iter(self._of(self._feeds))

    def _of(self, feeds: Sequence[int]) -> list[Mapping[str, Array]]:
        found = self.source.asked(feeds)
        return [{n: values[n] for n in self._names} for values in found]
