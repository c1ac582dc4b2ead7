"""What a native recipe may say: keys, types and limits. `native` has the form with an example."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = [
    "NAMES",
    "ActivationSection",
    "AlgorithmSection",
    "RecipeDocument",
    "RuleSection",
    "WeightSection",
    "WhereSection",
]

#: Keys whose values are names of the model's, which stay as written: `layer: 123`, `skip: [on]`.
NAMES = (
    "layer",
    "op",
    "name",
    "inputs",
    "outputs",
    "skip",
    "target",
    "algorithm",
    "where",
    "message",
)

_WHERE = "it is one of all, {op: …}, {layer: …}, {layer: …, input: …} and {subgraph: …}"

Precision = Literal["int", "int4", "int8", "int16", "float16", "float32"]


def _as_bool(value: object) -> object:
    """Read on/off and yes/no, which YAML 1.1 has as true and false."""
    return (
        {"on": True, "yes": True, "off": False, "no": False}.get(value.lower(), value)
        if isinstance(value, str)
        else value
    )


def _as_switch(value: object) -> object:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value.lower() if isinstance(value, str) else value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_choice(value: object) -> object:
    return {"algorithm": value} if isinstance(value, str) else value


def _as_where(value: object) -> object:
    if value == "all":
        return {"all": True}
    if not isinstance(value, dict):
        raise ValueError(_WHERE)
    return value


Flag = Annotated[bool, BeforeValidator(_as_bool)]
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_switch)]
Name = Annotated[str, Field(min_length=1)]
NameList = Annotated[list[Name], BeforeValidator(_as_list), Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A mapping of the recipe: unknown keys and conversions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CalibrationSection(Section):
    """`calibration`."""

    batch_size: Count | None = None
    batch_num: Count | None = None
    exact: Flag = False


class FusionSection(Section):
    """`fusion`."""

    batch_norm: Flag = True
    skip: Annotated[list[Name], BeforeValidator(_as_list)] = []


class AlgorithmSection(Section):
    """Keys besides those of the subclass are options of the algorithm, which checks them itself."""

    model_config = ConfigDict(extra="allow")

    algorithm: Name | None = None


class ActivationSection(AlgorithmSection):
    """`activation` of a rule."""

    bits: Literal[8, 16] | None = None
    symmetric: Flag | None = None
    per_channel: Flag | None = None


class WeightSection(AlgorithmSection):
    """`weight` of a rule."""

    bits: Literal[4, 6, 7, 8, 16] | None = None
    per_channel: Flag | None = None


class SubgraphSection(Section):
    """`where: {subgraph: …}`."""

    name: Name
    inputs: NameList
    outputs: NameList


class WhereSection(Section):
    """`where` of a rule; `all` alone is read as {all: true}."""

    all: Literal[True] | None = None
    op: NameList | None = None
    layer: NameList | None = None
    input: Annotated[int, Field(ge=0)] | None = None
    subgraph: SubgraphSection | None = None

    @model_validator(mode="after")
    def _one_of(self) -> WhereSection:
        said = [k for k in ("all", "op", "layer", "subgraph") if getattr(self, k) is not None]
        if len(said) != 1 or (self.input is not None and said != ["layer"]):
            raise ValueError(_WHERE)
        return self


class RuleSection(Section):
    """One of `rules`."""

    where: Annotated[WhereSection, BeforeValidator(_as_where)]
    precision: Precision | None = None
    activation: Annotated[ActivationSection, BeforeValidator(_as_choice)] | None = None
    weight: Annotated[WeightSection, BeforeValidator(_as_choice)] | None = None
    balance: Annotated[float, Field(ge=0.2, le=0.8)] | None = None


class NoteSection(Section):
    """One of `notes`."""

    where: str
    message: str
    honoured: Flag = False


class RecipeDocument(Section):
    """The whole text."""

    calibrant: Literal[1]
    target: Name = "generic"
    calibration: CalibrationSection = CalibrationSection()
    fusion: FusionSection = FusionSection()
    bias_correction: Switch = "auto"
    equalize: Switch = "auto"
    rounding: Switch = "auto"
    rules: list[RuleSection] = []
    notes: list[NoteSection] = []

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, content: Any) -> Any:
        """Take `rules:` with nothing, or comments alone, behind it for no rules."""
        if not isinstance(content, dict):
            return content
        return {k: v for k, v in content.items() if v is not None}
