"""What a native recipe may say: keys, types and limits. `native` has the form with an example."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from calibrant.numerics.metrics import METRICS
from calibrant.recipe import Condition
from calibrant.recipe.settings import Settings
from calibrant.text.fields import interval, one_of

__all__ = [
    "NAMES",
    "ActivationSection",
    "AlgorithmSection",
    "LimitSection",
    "RecipeDocument",
    "RuleSection",
    "SettingsSection",
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
    "names",
    "types",
    "file",
    "path",
    "setting",
    "reason",
    "metric",
)

_WHERE = (
    "it is one of all, first, last, {op: …}, {layer: …}, {subgraph: …}, each with input: … for one input, "
    "{all_of: […]} and {mapped: …}"
)

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
    if value in ("all", "first", "last"):
        return {value: True}
    if not isinstance(value, dict):
        raise ValueError(_WHERE)
    return value


Flag = Annotated[bool, BeforeValidator(_as_bool)]
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_switch)]
Name = Annotated[str, Field(min_length=1)]
NameList = Annotated[list[Name], BeforeValidator(_as_list), Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Metric = Annotated[str, one_of(*METRICS)]


class Section(BaseModel):
    """A mapping of the recipe: unknown keys and conversions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SourceSection(Section):
    """One of `calibration.sources`."""

    path: Name
    kind: Literal["images", "numbers"]
    color: str | None = None
    mean: list[float] = []
    std: list[float] = []


class CalibrationSection(Section):
    """`calibration`."""

    batch_size: Count | None = None
    batch_num: Count | None = None
    exact: Flag = False
    random: Flag = False
    balance_batches: Count | None = None
    behind: Literal["auto", "float", "weights"] = "auto"
    sources: list[SourceSection] = []


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

    bits: Literal[4, 8, 16] | None = None
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
    exclusive: Flag = False


class MappedSection(Section):
    """`where: {mapped: …}`."""

    file: Name
    names: list[Name] | None = None


class WhereSection(Section):
    """`where` of a rule; `all`, `first` and `last` alone are read as {all: true} and so on."""

    all: Literal[True] | None = None
    first: Literal[True] | None = None
    last: Literal[True] | None = None
    op: NameList | None = None
    layer: NameList | None = None
    input: Annotated[int, Field(ge=0)] | None = None
    types: NameList | None = None
    subgraph: SubgraphSection | None = None
    all_of: (
        Annotated[list[Annotated[WhereSection, BeforeValidator(_as_where)]], Field(min_length=1)]
        | None
    ) = None
    mapped: MappedSection | None = None

    @model_validator(mode="after")
    def _one_of(self) -> WhereSection:
        kinds = ("all", "first", "last", "op", "layer", "subgraph", "all_of", "mapped")
        said = [k for k in kinds if getattr(self, k) is not None]
        one_input = self.input is None or said[:1] in (
            [k] for k in ("op", "layer", "subgraph", "first", "last")
        )
        of_types = self.types is None or (said == ["layer"] and self.input is not None)
        if len(said) != 1 or not one_input or not of_types:
            raise ValueError(_WHERE)
        return self


class BiasSection(Section):
    """`bias` of a rule: how the correction of the bias is taken."""

    samples: Annotated[int, Field(ge=0)] | None = None
    metric: Metric | None = None


class SettingsSection(Section):
    """What holds for some nodes."""

    precision: Precision | None = None
    activation: Annotated[ActivationSection, BeforeValidator(_as_choice)] | None = None
    weight: Annotated[WeightSection, BeforeValidator(_as_choice)] | None = None
    balance: Annotated[float, Field(ge=0, le=0.8)] | None = None
    compensation: Flag | None = None
    bias: BiasSection = BiasSection()

    @model_validator(mode="after")
    def _balances(self) -> SettingsSection:
        if self.balance and self.balance < 0.2:
            raise ValueError(f"balance is {self.balance}; it lies in [0.2, 0.8], or is 0")
        return self


class RuleSection(SettingsSection):
    """One of `rules`."""

    where: Annotated[WhereSection, BeforeValidator(_as_where)]
    force: Literal["implied", "wished", "required", "granted"] = "wished"
    candidates: list[SettingsSection] | None = None


class LimitSection(Section):
    """One of `limits`."""

    where: Annotated[WhereSection, BeforeValidator(_as_where)]
    setting: Annotated[str, one_of(*(f.name for f in fields(Settings)))]
    allowed: Annotated[list[bool | int | float | str], Field(min_length=1)]
    reason: str
    condition: Condition = "always"

    @model_validator(mode="after")
    def _for_types(self) -> LimitSection:
        if self.where.all is None and (self.where.op is None or len(self.where.op) != 1):
            raise ValueError("where of a limit is all, {op: …} or {op: …, input: …}")
        return self


#: What an input may be fixed to.
FixedValue = bool | int | float | str | list[Any]


class SearchSection(Section):
    """`search`."""

    scope: Literal["model", "layer"] = "model"
    metric: Metric = "cosine-similarity"
    samples: Count = 1
    aggregate: Literal["worst", "mean"] = "worst"
    good_enough: float | None = None
    then_per_channel: Flag = False


class PromoteSection(Section):
    """`promote`."""

    precision: Literal["int8", "int16", "float16", "float32"] = "int16"
    metric: Metric = "cosine-similarity"
    count: Count | None = None
    threshold: float | None = None
    budget: Annotated[float, interval("(0, 1]")] | None = None

    @model_validator(mode="after")
    def _one_measure(self) -> PromoteSection:
        if sum(v is not None for v in (self.count, self.threshold, self.budget)) != 1:
            raise ValueError("one of count, threshold and budget is given")
        return self


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
    joint: Flag = False
    scale_format: Literal["float32", "float16"] = "float32"
    tiny_scales: Literal["kept", "one"] = "kept"
    output_precision: Literal["int8", "int16", "float16", "float32"] = "float32"
    search: SearchSection | None = None
    promote: PromoteSection | None = None
    fix: dict[Name, FixedValue] = {}
    keep_fixed_inputs: Flag = False
    training: Flag = False
    limits: list[LimitSection | Name] = []
    rules: list[RuleSection] = []
    notes: list[NoteSection] = []

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, content: Any) -> Any:
        """Take `rules:` with nothing, or comments alone, behind it for no rules."""
        if not isinstance(content, dict):
            return content
        return {k: v for k, v in content.items() if v is not None}
