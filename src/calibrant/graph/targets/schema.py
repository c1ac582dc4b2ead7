"""What a target's file may say: keys, types and limits. `file` has the form with an example."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from calibrant.errors import did_you_mean
from calibrant.graph.ops import OP_RULES, OpRule
from calibrant.numerics.dtype import INT_BITS
from calibrant.text.fields import Section, interval, one_of, unique
from calibrant.text.schema import FieldsError

__all__ = ["LimitSection", "TargetDocument"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _name(value: str) -> str:
    if _NAME.fullmatch(value):
        return value
    raise ValueError("it has letters, digits, '.', '_' and '-', and begins with a letter or digit")


def _sentence(value: str) -> str:
    if value.strip() and "\n" not in value.strip():
        return value.strip()
    raise ValueError("it is one line of text")


def _has_data(rule: OpRule) -> bool:
    return rule.data is None or bool(rule.data)


def _moves(rule: OpRule) -> bool:
    """Say whether an operator can keep its input's range: it moves values, averages them, or pads."""
    return rule.kind in ("pass_through", "pool") or (rule.kind == "other" and rule.data == (0,))


#: Operators that each list may have, and what they have in common.
_QUANTIZED = sorted(op for op, rule in OP_RULES.items() if _has_data(rule))
_FUSED = sorted(op for op, rule in OP_RULES.items() if rule.kind == "activation")
_SHARED = sorted(
    {op for op, rule in OP_RULES.items() if _moves(rule) and op != "Softmax"} | {"Concat"}
)


def _operators(allowed: list[str], which: str) -> AfterValidator:
    def check(values: list[str]) -> list[str]:
        for value in unique(values):
            if value not in allowed:
                near = did_you_mean(value, allowed)
                raise ValueError(f"'{value}' is none of the {which}: {', '.join(allowed)}.{near}")
        return values

    return AfterValidator(check)


def _widths(values: list[int]) -> list[int]:
    twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
    if twice is not None:
        raise ValueError(f"{twice} stands twice; a width stands once")
    return values


Operators = Annotated[list[str], _operators(_QUANTIZED, "operators whose inputs can be quantized")]
Residuals = Annotated[list[str], _operators(["Add"], "additions")]
Fused = Annotated[list[str], _operators(_FUSED, "activation functions")]
Shared = Annotated[list[str], _operators(_SHARED, "operators that can keep a range")]
Widths = Annotated[
    list[Annotated[int, one_of(*INT_BITS)]], Field(min_length=1), AfterValidator(_widths)
]


class LimitSection(Section):
    """One of `limits`."""

    op: Annotated[str, one_of(*_QUANTIZED)] | None = None
    input: Annotated[int, interval("[0, inf)")] | None = None
    bits: Widths
    granted: Widths = Field(default_factory=list)


class TargetDocument(Section):
    """The whole text; what each key means is said at `Target`."""

    calibrant_target: Literal[1]
    name: Annotated[str, AfterValidator(_name)]
    description: Annotated[str, AfterValidator(_sentence)]
    like: str | None = None
    anchors: Annotated[Operators, Field(min_length=1)]
    integer_outputs: Operators = Field(default_factory=list)
    followers: Operators = Field(default_factory=list)
    feeders: Operators = Field(default_factory=list)
    residuals: Residuals = Field(default_factory=list)
    fused: Fused = Field(default_factory=list)
    shared: Shared = Field(default_factory=list)
    widest: Operators = Field(default_factory=list)
    limits: list[LimitSection] = Field(default_factory=list)
    unsigned: bool = False
    symmetric: bool = False
    zero_points: bool = True
    integer_bias: bool = True
    activation_bits: Widths = Field(default_factory=lambda: [8, 16])
    weight_bits: Widths = Field(default_factory=lambda: [4, 6, 7, 8, 16])
    equalize: bool = True
    channel_scales: bool = False
    one_quantizer: bool = False
    pairs_in_16_bits: bool = False
    narrow_sums: Literal["ignore", "try", "fit"] = "ignore"
    quantize_moved: bool = True
    matmul_as_gemm: bool = False
    measures_latency: bool = False

    @model_validator(mode="after")
    def _lists_agree(self) -> TargetDocument:
        _within(self, "integer_outputs", self.anchors, "anchors")
        _within(
            self,
            "widest",
            [*self.anchors, *self.followers, *self.feeders],
            "anchors, followers or feeders",
        )
        if not self.zero_points and not self.symmetric:
            raise FieldsError(
                "zero_points is false, so it has to be true", "symmetric", self.symmetric
            )
        for field in ("followers", "feeders", "residuals"):
            for op in getattr(self, field):
                if op in self.anchors:
                    text = f"'{op}' is an anchor already; an operator is one or the other"
                    raise FieldsError(text, field, getattr(self, field))
        return self


def _within(content: TargetDocument, field: str, allowed: list[str], where: str) -> None:
    value: list[Any] = getattr(content, field)
    for op in value:
        if op not in allowed:
            raise FieldsError(f"'{op}' is not in {where}, and it has to be", field, value)
