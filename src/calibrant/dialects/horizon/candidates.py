"""The candidates that list-valued activation fields make.

| Method | Times |
|---|---|
| `max`, `percentile` | `max_percentile`, `asymmetric`, `per_channel` |
| `kl` | `num_bin`, `asymmetric`, `per_channel` |
| `min-max`, `mse` | `asymmetric`, `per_channel` |

Cheap methods come first, symmetric before asymmetric, one scale a tensor before one a channel, so that a tie
never buys a costlier scheme. Source: docs/reference/horizon-configurations.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from calibrant.dialects.horizon.schema import Activation
from calibrant.recipe import AlgorithmChoice, Settings
from calibrant.recipe.settings import FROM_MODEL

__all__ = ["LOADED", "MOST", "candidate_name", "candidates", "hints"]

MOST = 64
LEAST_BINS = 129
LEAST_MAX_BINS = 258

#: The parameters that the model itself holds.
LOADED = AlgorithmChoice(FROM_MODEL)

_ORDER = ("max", "percentile", "min-max", "mse", "kl")


def candidates(activation: Activation) -> tuple[Settings, ...]:
    """Return the settings to try, in order, without repetitions.

    Raises:
        ValueError: There are more than 64.
    """
    methods = activation.values("calibration_type", ["default"])
    if methods in (["default"], ["mix"]):
        activation = Activation(
            calibration_type=["max", "kl"], max_percentile=[1.0, 0.99995]
        ).over(activation)
        methods = ["max", "kl"]
    flags = [
        (asymmetric, per_channel)
        for asymmetric in sorted(activation.values("asymmetric", [False]))
        for per_channel in sorted(activation.values("per_channel", [False]))
    ]
    found: dict[Settings, None] = {}
    for algorithm in _algorithms(activation, methods):
        for asymmetric, per_channel in flags:
            # A threshold is what min-max has where zero is in the middle.
            is_threshold = algorithm.name == "min-max" and not asymmetric
            settings = Settings(
                activation=AlgorithmChoice.of("max", {"max_percentile": 1.0})
                if is_threshold
                else algorithm,
                activation_symmetric=not asymmetric,
                activation_per_channel=per_channel,
            )
            found[settings] = None
    if len(found) > MOST:
        parts = {
            "methods": methods,
            "max_percentile": activation.values("max_percentile", []),
            "num_bin": activation.values("num_bin", []),
            "asymmetric": activation.values("asymmetric", []),
            "per_channel": activation.values("per_channel", []),
        }
        sizes = " x ".join(f"{len(v)} {k}" for k, v in parts.items() if v)
        raise ValueError(f"the lists make {len(found)} candidates ({sizes}); at most {MOST}")
    return tuple(found)


def _algorithms(activation: Activation, methods: list[str]) -> Iterator[AlgorithmChoice]:
    for method in sorted(methods, key=lambda m: _ORDER.index(m) if m in _ORDER else 0):
        if method == "load":
            yield LOADED
        elif method == "skip":
            yield AlgorithmChoice.of("max", {"max_percentile": 1.0})
        elif method in ("max", "percentile"):
            default = [1.0] if method == "max" else [0.99995]
            shares = activation.values("max_percentile", default)
            yield from (
                AlgorithmChoice.of("max", {"max_percentile": float(p)})
                for p in sorted(shares, reverse=True)
            )
        elif method == "kl":
            for bins in activation.values("num_bin", [1024]):
                enough = max(bins, LEAST_BINS)
                most = max(activation.max_num_bin or 16384, LEAST_MAX_BINS, enough)
                yield AlgorithmChoice.of("kl-merge", {"bins": enough, "max_bins": most})
        else:
            yield AlgorithmChoice(method)


def candidate_name(candidate: Settings) -> str:
    """Return a candidate's name as the vendor's logs print it.

    Example:
        >>> activation = Activation(calibration_type=["max"], max_percentile=[0.99995], per_channel=[True])
        >>> candidate_name(candidates(activation)[0])
        'max-percentile:percentile=0.99995,per_channel'
    """
    choice = candidate.activation
    assert choice is not None
    options = dict(choice.options)
    name, details = choice.name, []
    if name == "max" and options.get("max_percentile", 1.0) < 1:
        name = "max-percentile"
        details.append(f"percentile={options['max_percentile']}")
    if name == "kl-merge":
        name = "kl"
        details.append(f"num_bin={options['bins']}")
    details += ["asymmetric"] * (not candidate.activation_symmetric)
    details += ["per_channel"] * bool(candidate.activation_per_channel)
    return ":".join(filter(None, (name, ",".join(details))))


def hints(activation: Activation, written: Activation) -> Iterator[tuple[str, str, bool]]:
    """Yield what to note about a section: field, sentence, and whether the request is met all the same.

    Args:
        activation: The section laid over the coarser levels.
        written: The section by itself.
    """
    for field, message, honoured in _hints(activation):
        if field in written.model_fields_set:
            yield field, message, honoured


def _hints(activation: Activation) -> Iterator[tuple[str, str, bool]]:
    methods = activation.values("calibration_type", ["default"])
    uses_kl = bool({"kl", "default", "mix"} & set(methods))
    uses_max = bool({"max", "percentile", "default", "mix"} & set(methods))
    for bins in activation.values("num_bin", []):
        if bins < LEAST_BINS and uses_kl:
            yield "num_bin", f"num_bin is {bins}; {LEAST_BINS} is the least and is taken.", True
    largest = max([LEAST_MAX_BINS, *activation.values("num_bin", [1024])])
    if activation.max_num_bin is not None and activation.max_num_bin < largest and uses_kl:
        text = f"max_num_bin is {activation.max_num_bin}; {largest} is the least and is taken."
        yield "max_num_bin", text, True
    for field in ("num_bin", "max_num_bin"):
        if getattr(activation, field) is not None and not uses_kl:
            yield field, f"{field} is for kl, and calibration_type is {', '.join(methods)}.", False
    if activation.max_percentile is not None and not uses_max:
        text = f"max_percentile is for max, and calibration_type is {', '.join(methods)}."
        yield "max_percentile", text, False
    if methods == ["mix"]:
        text = "mix is deprecated; it is a layerwise_search over max, max_percentile and kl."
        yield "calibration_type", text, True
    if methods == ["skip"]:
        text = "skip calibrates on random data: for structure and speed, not for accuracy."
        yield "calibration_type", text, True
