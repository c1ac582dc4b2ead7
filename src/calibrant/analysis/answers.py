"""What a float model answers to feeds: each is run when it is first asked for, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.simulate import is_light
from calibrant.data.batch import Batch
from calibrant.errors import DataError
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Answers", "FloatAnswers"]

Array = npt.NDArray[Any]


class FloatAnswers:
    """Runs a float model on feeds that are asked for.

    Sessions of large models are closed behind each request, since weights are held once more as long as one is open.

    Args:
        model: The model, whose outputs are what is wanted.
        finite: Outputs that have to hold no NaN.
        runtime: Where it runs.
        said: Told how many samples were run.
    """

    def __init__(
        self,
        model: ir.Model,
        finite: Sequence[str],
        runtime: Runtime = CPU,
        said: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Nothing is run yet."""
        self._model, self._finite = model, tuple(finite)
        self._runtime, self._said = runtime, said
        self._light = is_light(model)
        self._session: ort.InferenceSession | None = None
        self._known: dict[int, dict[str, Array]] = {}
        self.feeds: Sequence[Batch] = ()

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

    def _run(self, batch: Batch) -> dict[str, Array]:
        if self._session is None:
            self._session = open_session(self._model, runtime=self._runtime)
        names = [o.name for o in self._session.get_outputs()]
        read = {i.name: batch.feeds[i.name] for i in self._session.get_inputs()}
        found = dict(zip(names, infer(self._session, names, read), strict=True))
        for name in self._finite:
            x = np.asarray(found[name])
            if x.dtype.kind == "f" and np.isnan(x).any():
                raise DataError(f"The float model's tensor '{name}' holds NaN for {batch}.")
        self._said(batch.size)
        return found


class Answers(Sequence[Mapping[str, Array]]):
    """Some tensors of the answers to some feeds; what a loop or a slice asks for is run together.

    Args:
        source: Runs the model.
        feeds: Indices of the feeds.
        names: The tensors.
    """

    def __init__(self, source: FloatAnswers, feeds: Sequence[int], names: Sequence[str]) -> None:
        """Nothing is run yet."""
        self._source, self._feeds, self._names = source, list(feeds), tuple(names)

    def only(self, places: Sequence[int]) -> Answers:
        """Return the answers at some places."""
        return Answers(self._source, [self._feeds[i] for i in places], self._names)

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
        found = self._source.asked(feeds)
        return [{n: values[n] for n in self._names} for values in found]
