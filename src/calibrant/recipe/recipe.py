"""What is wanted: a Recipe is an ordered list of rules, and the last rule that matches wins.

A recipe names no model. It can be stored, compared, sent to a worker or changed by a tuner; `plan.resolve`
brings it together with a model and says which rule decided each field. Every vendor dialect ends here:
"layer over type over common" and "node over op over model" are both a matter of order.

    Recipe
    ├── rules        Rule(where, settings, origin), …     settings merge by field, later rules over earlier
    ├── target       the device profile, by name (graph/targets)
    ├── limits       what else the device cannot do
    ├── calibration  how much data, and whether on histograms or on raw values
    ├── fusion       batch normalization folding and its skip list
    ├── fix          inputs that are the same in every use
    ├── search, promote                                   what is decided by measuring
    ├── bias_correction, equalize, joint, …               passes over the whole model
    └── notes        what a dialect asked for that cannot be honoured, and why

What the core does not run yet is listed in `unsupported`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.recipe._shown import shown
from calibrant.recipe.fixed import FixedInput
from calibrant.recipe.settings import AlgorithmChoice, Settings
from calibrant.recipe.where import (
    AllNodes,
    InputOf,
    OpType,
    Where,
)
from calibrant.text.note import Note

__all__ = [
    "Calibration",
    "Condition",
    "Force",
    "Fusion",
    "Limit",
    "Note",
    "Precision",
    "Promotion",
    "Recipe",
    "Rule",
    "Search",
    "Source",
    "Switch",
]

Switch = Literal["auto", "on", "off"]
Force = Literal["implied", "wished", "required", "granted"]
Condition = Literal[
    "always",
    "no bias",
    "grouped or odd inputs",
    "dilated in depth",
    "transposed input",
    "no constant weight",
    "shared weight",
    "no plain recurrence",
]
Precision = Literal["int8", "int16", "float16", "float32"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings for the nodes that `where` selects.

    Args:
        where: Which nodes.
        settings: What holds there.
        origin: Where the rule stands, for messages: `recipe.yaml: rules[2]`, `quant.cfg:14
            override_layer_configs 'conv1'`, `command line`.
        force: What becomes of it where a limit forbids it. `wished` takes the nearest that is allowed,
            and notes it; `required` is an error, and so is a layer that the target does not quantize;
            `implied` stands for what nobody wrote, and gives way without a word; `granted` takes a width that the
            target has a mode of its own for, and is `wished` otherwise.
        places: (setting, where it stands), for settings whose place is known more exactly than `origin`.
            Says nothing about what is wanted, so rules that differ in it alone are equal.
    """

    where: Where
    settings: Settings
    origin: str = ""
    force: Force = "wished"
    places: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        return shown(self)

    def place(self, setting: str) -> str:
        """Return where one setting of this rule stands, for messages."""
        return dict(self.places).get(setting) or self.origin or str(self.where)


@dataclass(frozen=True, slots=True)
class Limit:
    """Values that a device takes for one setting of some nodes.

    Args:
        where: Which nodes, or which input of them.
        setting: Field of `Settings`.
        allowed: Its values; for `activation` and `weight` the names of algorithms.
        reason: Why, one clause.
        condition: Which of these nodes (`plan.conditions`): all, those without a bias, those whose weight
            has groups or an odd number of input channels, and so on.
    """

    where: OpType | AllNodes | InputOf
    setting: str
    allowed: tuple[Any, ...]
    reason: str
    condition: Condition = "always"

    def allows(self, value: Any) -> bool:
        """Say whether a value is allowed; an algorithm is by its name, whatever its options."""
        return (value.name if isinstance(value, AlgorithmChoice) else value) in self.allowed

    def nearest(self, value: Any) -> Any:
        """Return the allowed value nearest to one that is not; the larger of two, the first of others."""
        if isinstance(value, AlgorithmChoice):
            return AlgorithmChoice(self.allowed[0])
        if isinstance(value, str):
            return self.allowed[0]
        return min(self.allowed, key=lambda v: (abs(v - value), -v))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Calibration data that a configuration names, for one input of the model.

    Args:
        path: Folder or file.
        kind: Images, or raw files of numbers.
        color: Order of an image's channels.
        mean: Subtracted, one for each channel or one for all [units of a pixel].
        std: Divided by.
        beside: Folder of the configuration, where a relative path is looked for first.
    """

    path: str
    kind: Literal["images", "numbers"]
    color: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    beside: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How candidates are chosen between.

    Args:
        scope: One choice for the model, or one for each layer.
        metric: Distance between the outputs of the float and the quantized model, by name.
        samples: How many samples it is taken from.
        aggregate: Of several outputs, the worst or the mean.
        good_enough: A score at which the search may end.
        then_per_channel: Try the winner with a scale for each channel as well.
    """

    scope: Literal["model", "layer"] = "model"
    metric: str = "cosine-similarity"
    samples: int = 1
    aggregate: Literal["worst", "mean"] = "worst"
    good_enough: float | None = None
    then_per_channel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Which of the layers that lose most are raised to a higher precision.

    One of the three measures is set.

    Args:
        precision: What they are raised to.
        metric: Distance that says how much a layer loses, by name.
        count: So many layers.
        threshold: All layers whose metric is at this or worse.
        budget: As many as fit into this share of the model's multiplications, worst first; one that does not
            fit is passed over.

    Raises:
        ConfigValueError: None of the three or several, or one out of range.
    """

    precision: Precision = "int16"
    metric: str = "cosine-similarity"
    count: int | None = None
    threshold: float | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        said = [n for n in ("count", "threshold", "budget") if getattr(self, n) is not None]
        if len(said) != 1:
            raise ConfigValueError(
                f"A promotion says one of count, threshold and budget; it says {' and '.join(said) or 'none'}."
            )
        if self.count is not None and (isinstance(self.count, bool) or self.count < 1):
            raise ConfigValueError(f"promote.count is {self.count!r}; it is 1 or more.")
        if self.budget is not None and not 0 < self.budget <= 1:
            raise ConfigValueError(f"promote.budget is {self.budget!r}; it lies in (0, 1].")


@dataclass(frozen=True, slots=True)
class Calibration:
    """How much data, and how its values are kept.

    Args:
        batch_size: Samples in a batch; None takes what fits (or what the data source says).
        batch_num: Batches used; None takes all.
        exact: Keep the raw values instead of histograms, for results equal to the vendors' to the
            last digit. Memory grows with the data.
        random: Random values stand in for data, to see whether a model goes through; ranges mean nothing.
        sources: Data that the configuration names, in the order of the inputs.
        balance_batches: Batches, from the first, that show how uneven the input of a layer to balance is;
            None takes the samples that candidates are measured on.
        behind: What the observed activations come from: the float model, or the same model with its weights
            rounded (`weights`; activations stay float while they are observed). `auto` tries both where the
            algorithm of activations is open too, and is `float` otherwise.
    """

    batch_size: int | None = None
    batch_num: int | None = None
    exact: bool = False
    random: bool = False
    sources: tuple[Source, ...] = ()
    balance_batches: int | None = None
    behind: Literal["auto", "float", "weights"] = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_num", "balance_batches"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or value < 1):
                raise ConfigValueError(f"calibration.{name} is {value!r}; it is 1 or more.")
        if self.behind not in ("auto", "float", "weights"):
            raise ConfigValueError(
                f"calibration.behind is {self.behind!r}; it is 'auto', 'float' or 'weights'."
            )


@dataclass(frozen=True, slots=True)
class Fusion:
    """Folding of batch normalization into the layer before it.

    Args:
        batch_norm: Fold where possible.
        skip: Layers whose batch normalization stays.
        origin: Where `skip` stands, for messages.
        skippable: Operators that `skip` may name, where a dialect has fewer than are folded.
    """

    batch_norm: bool = True
    skip: tuple[str, ...] = ()
    origin: str = field(default="", compare=False)
    skippable: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is wanted, for any model.

    Example:
        >>> Recipe(target="onnxruntime").with_rules(Rule(OpType("Conv"), Settings(activation_bits=16)))
        Recipe(rules=(Rule(where=OpType(name='Conv'), settings=Settings(activation_bits=16)),), target='onnxruntime')

    Args:
        rules: In order; the last that matches wins, field by field.
        target: Name of the device profile.
        limits: What the device takes of what a rule may ask.
        calibration: How much data.
        fusion: Folding of batch normalization.
        bias_correction: Take the mean error of a layer out of its bias.
        equalize: Rescale channels between layers.
        joint: Tensors that an Add brings together share one range.
        scale_format: Format that activation scales are rounded through.
        tiny_scales: A scale below 2**-23 is `kept`, or becomes `one` as in vendors' kernels: what it is the scale of
            is then rounded to 0.
        output_precision: Type of the model's outputs.
        search: How `Settings.candidates` are chosen between.
        promote: Layers to raise to a higher precision by what they lose.
        fix: Inputs of the model that become constants.
        keep_fixed_inputs: The written models keep these inputs, and do not read them.
        training: Ranges are learned by training, not taken from statistics.
        notes: What was asked for and is not done as written.

    Raises:
        ConfigTypeError: A rule that is no `Rule`.
        ConfigValueError: A switch that is not `auto`, `on` or `off`.
    """

    rules: tuple[Rule, ...] = ()
    target: str = "generic"
    limits: tuple[Limit, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)
    fusion: Fusion = field(default_factory=Fusion)
    bias_correction: Switch = "auto"
    equalize: Switch = "auto"
    joint: bool = False
    scale_format: Literal["float32", "float16"] = "float32"
    tiny_scales: Literal["kept", "one"] = "kept"
    output_precision: Precision = "float32"
    search: Search | None = None
    promote: Promotion | None = None
    fix: tuple[FixedInput, ...] = ()
    keep_fixed_inputs: bool = False
    training: bool = False
    notes: tuple[Note, ...] = ()

    def __repr__(self) -> str:
        return shown(self)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise ConfigTypeError(
                    f"A recipe has a {type(rule).__name__} among its rules; each is a Rule(where, settings)."
                )
        for name in ("bias_correction", "equalize"):
            value = getattr(self, name)
            if value not in get_args(Switch):
                raise ConfigValueError(f"{name} is {value!r}; it is 'auto', 'on' or 'off'.")

    def with_rules(self, *rules: Rule) -> Recipe:
        """Return the recipe with rules added at the end, so that they win."""
        return replace(self, rules=self.rules + rules)

    def on_target(self, target: str, asked_by: str) -> Recipe:
        """Return the recipe for another target, with a note where it names one itself.

        Args:
            target: Name of the device profile, or its file.
            asked_by: Who asks for it, for the note: `command line --target`.
        """
        if target == self.target or self == Recipe():
            return replace(self, target=target)
        message = f"Target '{target}' stands over the recipe's own, '{self.target}'."
        note = Note(asked_by, message, honoured=True)
        return replace(self, target=target, notes=(*self.notes, note))
