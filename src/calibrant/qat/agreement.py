"""Run the trained module and the deployed model on held samples, and say how far they agree.

Both compute the same sums in another order, so a value that lies on the edge between two steps may round to either; from
there the rounding errors of both go apart, the more the deeper the network is. What that comes to is measured: the
module is run once more with products and sums in float64, and may be as far from the deployed model as float32 itself is
from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch.fx import GraphModule, Interpreter

from calibrant.errors import ModelError
from calibrant.qat.operators.conv import conv, conv_transpose, einsum, gemm, matmul
from calibrant.runtime.measure import compare, run
from calibrant.runtime.runtime import CPU, Runtime

__all__ = ["LIMIT_DB", "Agreement", "agreement_of", "outputs_of"]

Array = npt.NDArray[Any]

#: Below this the module and the deployed model do not agree …
LIMIT_DB = 40.0
#: … unless float32 agrees with float64 no better than this above it.
SLACK_DB = 6.0

#: Functions that add up products.
_SUMS = frozenset({conv, conv_transpose, gemm, matmul, einsum})


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the trained module and the deployed model agree.

    Args:
        samples: On how many samples.
        sqnr_db: 10 log10(sum a**2 / sum (a - b)**2) of the outputs, the least of all outputs; inf where equal.
        top1: Share of equal answers along the last axis of the first output; None where it has none.
        float32_db: The same SQNR between the module in float32 and with sums in float64, on the first feed; None
            where both agree well enough without a look at it.
    """

    samples: int
    sqnr_db: float
    top1: float | None
    float32_db: float | None = None

    @property
    def holds(self) -> bool:
        """Whether what was trained is what is deployed."""
        if self.float32_db is None:
            return self.sqnr_db >= LIMIT_DB
        return self.sqnr_db >= min(LIMIT_DB, self.float32_db - SLACK_DB)

    def check(self) -> None:
        """Refuse a model that is not what was trained.

        Raises:
            ModelError: It is not.
        """
        if not self.holds:
            top = "" if self.top1 is None else f", top-1 equal for {self.top1:.2%}"
            raise ModelError(
                f"The deployed model is not what was trained: on {self.samples} samples both agree to "
                f"{self.sqnr_db:.1f} dB{top}; at least {LIMIT_DB:g} dB are asked for, and float32 agrees with float64 "
                f"to {self.float32_db:.1f} dB. This is a fault of calibrant."
            )


class _Exact(Interpreter):
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
    exact: bool = False,
) -> list[dict[str, Array]]:
    """Return what a module answers to feeds, by the names of the model's outputs; it is in evaluation meanwhile.

    Args:
        module: A graph.
        names: Its inputs, in their order.
        outputs: Its outputs.
        feeds: Samples.
        exact: Products and sums in float64: what integers would come to.
    """
    answering = _Exact(module).run if exact else module
    was_training = module.training
    module.eval()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    found = []
    for feed in feeds:
        answer = answering(*(torch.from_numpy(np.asarray(feed[n])).to(device) for n in names))
        answers = answer if isinstance(answer, tuple) else (answer,)
        found.append({n: a.float().cpu().numpy() for n, a in zip(outputs, answers, strict=True)})
    module.train(was_training)
    return found


def agreement_of(
    module: GraphModule,
    deploy: ir.Model,
    inputs: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    runtime: Runtime = CPU,
) -> Agreement:
    """Compare a trained module with the deployed model.

    Args:
        module: What was trained.
        deploy: The deployed model.
        inputs: Names of the inputs of the module, in their order.
        feeds: Samples.
        runtime: Where the deployed model runs.
    """
    theirs = run(deploy, feeds, optimize=False, integers=False, runtime=runtime)
    names = list(theirs[0])
    mine = outputs_of(module, inputs, names, feeds)
    found = compare(theirs, mine)
    worst = min((q.sqnr_db for q in found), default=float("inf"))
    float32 = None
    if worst < LIMIT_DB:
        exact = outputs_of(module, inputs, names, feeds[:1], exact=True)
        float32 = min(q.sqnr_db for q in compare(exact, mine[:1]))
    sizes = [next(iter(f.values())) for f in feeds]
    samples = sum(len(x) if np.ndim(x) else 1 for x in sizes)
    return Agreement(samples, worst, found[0].top1_agreement if found else None, float32)
