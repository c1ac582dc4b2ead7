"""Compare the outputs of two models of one network on the same inputs, as the vendor's verifier does.

| pair | what counts |
|---|---|
| two float models, two models that compute with integers | consistency: values agree to so many decimal digits |
| float against fake-quant, fake-quant against quantized, … | cosine similarity |

    x and y agree to d digits where abs(x - y) <= 10**-d (1 + abs(y))

Used stage by stage it says which stage of a conversion changed a model: original against optimized float model (exact),
optimized against calibrated (cosine), calibrated against quantized (cosine, nearly 1). `calibrant compare` looks at every layer.

Source: the verifier of Horizon's OpenExplorer, as its public documentation describes it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from calibrant.analysis.compare import compare as compare_layers
from calibrant.errors import ConfigValueError
from calibrant.graph.load import ModelLike, load
from calibrant.progress import Callback

__all__ = ["DIGITS", "Agreement", "Verified", "compare", "verify"]

#: Decimal digits that have to agree where nothing else is asked for.
DIGITS = 5

#: Cosine similarity above which outputs are said to be alike: the limit that Ascend's documentation gives.
COSINE = 0.99

#: Operators that compute with integers.
_INTEGERS = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger", "MatMulNBits", "AscendQuant")


@dataclass(frozen=True, slots=True)
class Agreement:
    """One output.

    Args:
        output: Its name in the first model.
        cosine: Cosine similarity, the mean over samples.
        values: How many values were compared.
        mismatches: Those that do not agree to so many digits.
        share: Mismatches over values.
        max_absolute_error: Largest absolute difference.
        max_relative_error: Largest relative difference, where the first model's value is not 0.
        passed: Whether it is as it should be, by what counts for the pair.
    """

    output: str
    cosine: float
    values: int
    mismatches: int
    share: float
    max_absolute_error: float
    max_relative_error: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """Two models.

    Args:
        kinds: What each is: `float`, `fake-quant`, `quantized` (integer weights) or `integer`.
        mode: What counts: `consistency` or `cosine`.
        compare_digits: Decimal digits.
        samples: Samples that were compared.
        outputs: Outputs.
    """

    kinds: tuple[str, str]
    mode: str
    compare_digits: int
    samples: int
    outputs: tuple[Agreement, ...]

    @property
    def passed(self) -> bool:
        """Whether all outputs are as they should be."""
        return all(o.passed for o in self.outputs)

    def content(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "passed": self.passed}


def compare(
    model_a: ModelLike,
    model_b: ModelLike,
    inputs: Any,
    compare_digits: int = DIGITS,
    *,
    mode: str | None = None,
    progress: Callback | None = None,
) -> dict[str, Any]:
    """Compare the outputs of two models on the same inputs.

    Args:
        model_a: The model that is right.
        model_b: The other one.
        inputs: Samples, as `calibrant.quantize` takes them.
        compare_digits: Decimal digits that have to agree, in [0, 15].
        mode: `consistency` or `cosine`: what counts; None for what goes with the pair.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        `kinds`, `mode`, `passed`, and for each of the `outputs` the cosine similarity, how many values do not agree, and the
        largest differences.

    Raises:
        ConfigValueError: Digits or a mode that do not exist.
        ModelError: A model cannot be read or run, or the two share no inputs or no outputs.
        DataError: The data is empty or does not fit.
    """
    return verify(model_a, model_b, inputs, compare_digits, mode=mode, progress=progress).content()


def verify(
    model_a: ModelLike,
    model_b: ModelLike,
    inputs: Any,
    compare_digits: int = DIGITS,
    *,
    mode: str | None = None,
    progress: Callback | None = None,
) -> Verified:
    """Do what `compare` does, and return it as values of their own."""
    if mode not in (None, "consistency", "cosine"):
        raise ConfigValueError(f"mode is {mode!r}; it is consistency, cosine, or None.")
    kinds = _kind(model_a), _kind(model_b)
    exact = kinds == ("float", "float") or all(k in ("quantized", "integer") for k in kinds)
    counts = mode or ("consistency" if exact else "cosine")
    report = compare_layers(
        model_a,
        model_b,
        inputs,
        samples=None,
        digits=compare_digits,
        born=False,
        progress=progress,
    )
    rows = []
    for output in report.outputs:
        digits, cosine = output.whole.digits, output.whole.metrics["cosine_similarity"]
        assert digits is not None
        passed = digits.mismatches == 0 if counts == "consistency" else cosine > COSINE
        rows.append(Agreement(output.name, cosine, *_numbers(digits), passed))
    return Verified(kinds, counts, compare_digits, report.samples, tuple(rows))


def _numbers(digits: Any) -> tuple[int, int, float, float, float]:
    return (
        digits.values,
        digits.mismatches,
        digits.share,
        digits.max_absolute_error,
        digits.max_relative_error,
    )


def _kind(model: ModelLike) -> str:
    """Say how a model computes."""
    graph = load(model, quantizers=True, integers=True).graph
    kinds = {n.op_type for n in graph.all_nodes()}
    if any(k.startswith(_INTEGERS) for k in kinds):
        return "integer"
    if not kinds & {"QuantizeLinear", "DequantizeLinear", "FakeQuantize"}:
        return "float"
    return "quantized" if any(_holds_integers(n) for n in graph) else "fake-quant"


def _holds_integers(node: ir.Node) -> bool:
    """Whether a DequantizeLinear reads the integers of a weight from the file."""
    source = node.inputs[0] if node.inputs else None
    return (
        node.op_type == "DequantizeLinear"
        and source is not None
        and source.const_value is not None
        and source.dtype != ir.DataType.INT32
    )
