"""Run the trained module and the deployed model on held samples, and say how far they agree.

Both compute the same sums in another order, so a value that lies on the edge between two steps may round to either; from
there the rounding errors of both go apart, the more the deeper the network is. What that comes to is measured: the
module is run once more with products and sums in float64, and may be as far from the deployed model as float32 itself is
from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch.fx import GraphModule, Interpreter

from calibrant.errors import ModelError
from calibrant.qat.integers import IntegerSums, integer_outputs
from calibrant.qat.operators.conv import conv, conv_transpose, einsum, gemm, matmul
from calibrant.runtime.measure import compare, run
from calibrant.runtime.runtime import CPU, Runtime

__all__ = ["LIMIT_DB", "Agreement", "agreement_of", "outputs_of"]

Array = npt.NDArray[Any]

#: Below this the module and the deployed model do not agree …
LIMIT_DB = 40.0
#: … unless float32 agrees with float64 no better than this above it.
SLACK_DB = 6.0
#: Feeds that are run with sums in float64, which is slow.
EXACT_FEEDS = 4

#: Functions that add up products.
_SUMS = frozenset({conv, conv_transpose, gemm, matmul, einsum})


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the trained module and the deployed model agree.

    Args:
        samples: On how many samples.
        sqnr_db: 10 log10(sum a**2 / sum (a - b)**2) of the outputs, the least of all outputs; inf where equal.
        top1: Share of equal answers along the last axis of the first output; None where it has none.
        typical_db: The median of the SQNR of single samples. Where few values of a network lie on an edge, most samples
            are equal, and one that is not decides the figure over all.
        float32_db: The same median between the module in float32 and with sums in float64; None where both agree well
            enough without a look at it.
        integers_db: SQNR between both with integer sums (`integers`), the least of all outputs; None where that was not
            asked for.
        integers_top1: Share of equal answers there.
        integers_typical_db: The median of the SQNR of single samples there.
        integers_left_out: Quantized layers that have no integer sums, in the module or in the deployed model: they add up
            channels of different scales, or have no bias that is a constant. They were compared in floats.
    """

    samples: int
    sqnr_db: float
    top1: float | None
    typical_db: float
    float32_db: float | None = None
    integers_db: float | None = None
    integers_top1: float | None = None
    integers_typical_db: float | None = None
    integers_left_out: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether what was trained is what is deployed, with integer sums as well where these were asked for."""
        return self.holds_in_floats and self.holds_in_integers

    @property
    def holds_in_floats(self) -> bool:
        """Whether both agree as a float runtime computes them."""
        return self._agree(self.sqnr_db, self.typical_db)

    @property
    def holds_in_integers(self) -> bool:
        """Whether both agree with integer sums; where that was not asked for, nothing says otherwise."""
        if self.integers_db is None:
            return True
        typical = self.integers_typical_db
        return self._agree(self.integers_db, self.integers_db if typical is None else typical)

    def _agree(self, sqnr_db: float, typical_db: float) -> bool:
        if max(sqnr_db, typical_db) >= LIMIT_DB:
            return True
        return self.float32_db is not None and typical_db >= self.float32_db - SLACK_DB

    def check(self, *, integers: bool = True) -> None:
        """Refuse a model that is not what was trained.

        Args:
            integers: Refuse one that agrees in floats alone, too.

        Raises:
            ModelError: It is not.
        """
        if not self.holds_in_floats:
            top = "" if self.top1 is None else f", top-1 equal for {self.top1:.2%}"
            raise ModelError(
                f"The deployed model is not what was trained: on {self.samples} samples both agree to "
                f"{self.sqnr_db:.1f} dB{top}, and the median of them to {self.typical_db:.1f} dB; at least {LIMIT_DB:g} dB "
                f"are asked for, and float32 agrees with float64 to {self.float32_db:.1f} dB. This is a fault of calibrant."
            )
        if integers and not self.holds_in_integers:
            raise ModelError(
                f"The deployed model is not what was trained: with integer sums both agree to {self.integers_db:.1f} dB; "
                f"at least {LIMIT_DB:g} dB are asked for. This is a fault of calibrant. `check=True` compares both in floats alone."
            )


class Exact(Interpreter):
    """Runs a graph with products and sums in float64."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target not in _SUMS:
            return super().call_function(target, args, kwargs)
        wide = tuple(a.double() if isinstance(a, torch.Tensor) else a for a in args)
        return super().call_function(target, wide, kwargs).float()


@torch.no_grad()
def outputs_of(
    module: GraphModule,
    names: Sequence[str],
    outputs: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    *,
    by: Callable[[GraphModule], Interpreter] | None = None,
) -> list[dict[str, Array]]:
    """Return what a module answers to feeds, by the names of the model's outputs; it is in evaluation meanwhile.

    It answers in float32, as its graph says: not under autocast, and not by what somebody put in the place of its `forward`
    (accelerate does so for mixed precision) or `__call__` (`module.compile()`).

    Args:
        module: A graph.
        names: Its inputs, in their order.
        outputs: Its outputs.
        feeds: Samples.
        by: What runs the graph; None is the module's own code.
    """
    answering = partial(type(module).forward, module) if by is None else by(module).run
    was_training = module.training
    module.eval()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    found = []
    for feed in feeds:
        with _whole_floats(device):
            answer = answering(*(torch.from_numpy(np.asarray(feed[n])).to(device) for n in names))
        answers = answer if isinstance(answer, tuple) else (answer,)
        found.append({n: a.float().cpu().numpy() for n, a in zip(outputs, answers, strict=True)})
    module.train(was_training)
    return found


@contextmanager
def _whole_floats(device: torch.device) -> Iterator[None]:
    """No autocast; and convolutions of CUDA in float32: by default they read 10 bits of each fraction."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield


def agreement_of(
    module: GraphModule,
    deploy: ir.Model,
    inputs: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    runtime: Runtime = CPU,
    *,
    integers: bool = False,
    layers: Sequence[str] = (),
) -> Agreement:
    """Compare a trained module with the deployed model.

    Args:
        module: What was trained.
        deploy: The deployed model.
        inputs: Names of the inputs of the module, in their order.
        feeds: Samples.
        runtime: Where the deployed model runs.
        integers: Compare both with integer sums, too, on a few of the samples.
        layers: Layers that are quantized; those without integer sums are told.
    """
    theirs = run(deploy, feeds, optimize=False, integers=False, runtime=runtime)
    names = list(theirs[0])
    mine = outputs_of(module, inputs, names, feeds)
    found = compare(theirs, mine)
    worst = min((q.sqnr_db for q in found), default=float("inf"))
    typical, float32 = _typical(theirs, mine), None
    if max(worst, typical) < LIMIT_DB:
        few = feeds[:EXACT_FEEDS]
        exact = outputs_of(module, inputs, names, few, by=Exact)
        float32 = _typical(exact, mine[: len(few)])
    sizes = [next(iter(f.values())) for f in feeds]
    samples = sum(len(x) if np.ndim(x) else 1 for x in sizes)
    top1 = found[0].top1_agreement if found else None
    whole_db = whole_top1 = whole_typical = None
    left: set[str] = set()
    if integers:
        few = feeds[:EXACT_FEEDS]
        wanted, in_integers = integer_outputs(deploy, few, runtime)
        of_module = IntegerSums(module)
        given = outputs_of(module, inputs, names, few, by=lambda _: of_module)
        left = set(layers) - (of_module.done & set(in_integers))
        sums = compare(wanted, given)
        whole_typical = _typical(wanted, given)
        whole_db = min((q.sqnr_db for q in sums), default=float("inf"))
        whole_top1 = sums[0].top1_agreement if sums else None
    return Agreement(
        samples,
        worst,
        top1,
        typical,
        float32,
        whole_db,
        whole_top1,
        whole_typical,
        tuple(sorted(left)),
    )


def _typical(reference: list[dict[str, Array]], values: list[dict[str, Array]]) -> float:
    """Return the median of the SQNR of single samples [dB], the least of all floating point outputs."""
    found = []
    for name, first in reference[0].items():
        if first.dtype.kind != "f":
            continue
        each: list[float] = []
        for a, b in zip(reference, values, strict=True):
            rows = len(a[name]) if np.ndim(a[name]) > 1 else 1
            one, other = (x[name].astype(np.float64).reshape(rows, -1) for x in (a, b))
            error = ((one - other) ** 2).sum(axis=1)
            power = (one**2).sum(axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                each += np.where(error == 0, np.inf, 10 * np.log10(power / error)).tolist()
        found.append(float(np.median(each)))
    return min(found, default=float("inf"))
