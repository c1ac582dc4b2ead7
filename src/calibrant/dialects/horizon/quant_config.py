"""Horizon's `quant_config`: JSON in four levels, or the YAML of the old chain.

    {
      "model_config":    {"all_node_type": "int8", "activation": {"calibration_type": ["max", "kl"]}},
      "op_config":       {"Softmax": {"qtype": "int16"}},
      "subgraph_config": {"head": {"inputs": ["t1"], "outputs": ["t9"], "qtype": "float16"}},
      "node_config":     {"MatMul_7": {"input0": "int16", "input1": "ec"}}
    }

| Section | Holds for |
|---|---|
| `model_config` | all nodes: types, `activation`, `weight`, searches, promotion |
| `op_config` | an operator |
| `subgraph_config` | the nodes between inputs and outputs |
| `node_config` | a node |

A finer level beats a coarser one, field by field, and the type of one input beats that of a whole node,
wherever it stands. Lists make candidates, which `modelwise_search` or `layerwise_search` choose between.

Source: docs/reference/horizon-configurations.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from calibrant.dialects.dialect import Dialect
from calibrant.dialects.horizon.canonical import canonical
from calibrant.dialects.horizon.legacy import LEGACY_SECTION, from_legacy
from calibrant.dialects.horizon.rules import entries, rules_of
from calibrant.dialects.horizon.schema import (
    SECTIONS,
    TARGET,
    Activation,
    ModelConfig,
    SearchConfig,
    SearchSection,
    Weight,
)
from calibrant.dialects.horizon.write import effective_config, write_recipe
from calibrant.errors import ConfigTypeError, ConfigValueError, Problems
from calibrant.recipe import (
    Calibration,
    Note,
    Precision,
    Promotion,
    Recipe,
    Rule,
    Search,
    Source,
)
from calibrant.text.fields import read_section, without_null
from calibrant.text.json_text import is_json, json_keys, read_json
from calibrant.text.yaml_text import Document, read

__all__ = ["DIALECT"]

_SECTIONS = {"model_config", *SECTIONS, "modelwise_search", "layerwise_search"}

#: Sections by names that a layer of another dialect may have, and what stands in them.
_PLAIN_SECTIONS = {"activation", "weight", "search"}
_PLAIN_KEYS = {*Activation.model_fields, *Weight.model_fields, *SearchSection.model_fields}


def recognises(text: str, path: Path | None) -> bool:
    """Tell whether the text is JSON or YAML with this dialect's sections, or YAML of the old chain."""
    if is_json(text):
        outer, inner = json_keys(text)
        plain = outer & _PLAIN_SECTIONS and inner & _PLAIN_KEYS
        return "calibrant" not in outer and bool(outer & {*_SECTIONS, LEGACY_SECTION} or plain)
    begins = tuple(f"{section}:" for section in (*_SECTIONS, LEGACY_SECTION))
    if not any(line.startswith(begins) for line in text.splitlines()):
        return False
    try:
        content = read(text, path).content
    except ConfigValueError:
        return True
    return isinstance(content, dict) and "calibrant" not in content


def load(text: str, path: Path | None) -> Recipe:
    """Read a quant_config.

    Raises:
        ConfigValueError: No valid JSON, an unknown section, field, operator or type, two places that say
            different things, or a value that is not allowed; all that is wrong, in one error.
        ConfigTypeError: The first of these is a value of the wrong type.
        UnsupportedError: The first of these is a type that is reserved.
    """
    problems = Problems()
    document = (
        read_json(text, path, problems) if is_json(text) else read(text, path, problems=problems)
    )
    if document.content is None:  # nothing, or comments alone
        document = replace(document, content={})
    if not isinstance(document.content, dict):
        raise ConfigTypeError(f"{document.source}: the document is no mapping.")
    sources: tuple[Source, ...] | None = None
    notes: list[Note] = []
    if LEGACY_SECTION in document.content:
        document, sources, notes = from_legacy(document, problems)
    document = without_null(document, problems)
    document, of_form = canonical(document, problems)
    whole = replace(document, content={"model_config": document.content.get("model_config", {})})
    model = ModelConfig()
    with problems.caught():
        model = read_section(ModelConfig, whole, ("model_config",))
    finer = entries(document, problems)
    rules, of_rules = rules_of(model, finer, document, problems)
    problems.check()
    random = model.activation.calibration_type == ["skip"] or sources == ()
    search, of_search = _search(model, rules, document)
    return Recipe(
        rules=rules,
        target=TARGET,
        tiny_scales="one",
        calibration=Calibration(random=random, sources=sources or ()),
        bias_correction="off",
        equalize="off",
        output_precision=cast(Precision, model.model_output_type),
        search=search,
        promote=_promotion(model),
        notes=(*notes, *of_form, *of_rules, *of_search),
    )


def _search(
    model: ModelConfig, rules: tuple[Rule, ...], document: Document
) -> tuple[Search | None, list[Note]]:
    """Decide which search runs: none for one candidate; node by node where the file asks for both kinds."""
    config = model.layerwise_search or model.modelwise_search
    if not any(r.settings.candidates for r in rules):
        notes = [
            Note(
                document.where(("model_config", key)),
                f"{key} has nothing to do: there is one candidate alone.",
                honoured=True,
            )
            for key in ("modelwise_search", "layerwise_search")
            if getattr(model, key) is not None
        ]
        return None, notes
    methods = model.activation.values("calibration_type", ["default"])
    said = config or SearchConfig()
    search = Search(
        scope="layer" if model.layerwise_search is not None or methods == ["mix"] else "model",
        metric=said.metric,
        samples=said.num_sample,
        aggregate="mean" if said.aggregate == "mean" else "worst",
        good_enough=said.early_stop,
        then_per_channel=methods == ["default"] and model.activation.per_channel is None,
    )
    return search, []


def _promotion(model: ModelConfig) -> Promotion | None:
    if model.search is None:
        return None
    layer = model.search.layer
    return Promotion(
        precision=cast(Precision, layer.qtype),
        metric=layer.metric,
        count=layer.topk,
        threshold=layer.threshold,
        budget=layer.budget,
    )


DIALECT = Dialect(
    "horizon",
    "Horizon quant_config, JSON or the YAML of the old chain",
    recognises,
    load,
    write_recipe,
    effective_config,
)
