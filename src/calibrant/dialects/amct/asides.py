"""Sections of AMCT's files for what calibrant does not do: known by name, left aside with one sentence each.

| What | Its fields |
|---|---|
| KV caches | `kv_cache_quant_config`, `override_layers_configs`; in JSON `kv_data_quant_config` of a layer |
| distillation | `distill_…`, `group_size`, `data_dump`; in JSON `distill_data_config`, `distill_weight_config` |
| pruning | `ascend_optimized`, `max_prune_ratio`, `override_prune_cfg` |
| search for bit widths | `quant_bit_limit`, `ptq_cfg`, `override_qat_cfg` |
| one of the last two | `compress_ratio`, `test_iteration` |

The rest of the file counts. Configurations for training have fields of their own for pruning (`training.pruning_note`).

Source: docs/reference/ascend-configurations.md; the messages are AMCTQuantCaliConfig, AMCTDistillConfig,
AutoChannelPruneConfig and AutoMixedPrecisionConfig of AMCT's documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from calibrant.recipe import Note
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["ASIDE", "LAYER_ASIDE", "asides", "without_asides"]

_KV = "KV caches are not quantized"
_DISTILL = "Distillation is not done"
_PRUNE = "Pruning is not done"
_SEARCH = "Bit widths are not searched for"

_FIELDS: dict[str, frozenset[str]] = {
    _KV: frozenset({"kv_cache_quant_config", "override_layers_configs"}),
    _DISTILL: frozenset(
        {
            "data_dump",
            "distill_data_quant_config",
            "distill_group",
            "distill_override_layer_types",
            "distill_override_layers",
            "distill_weight_quant_config",
            "group_size",
        }
    ),
    _PRUNE: frozenset({"ascend_optimized", "max_prune_ratio", "override_prune_cfg"}),
    _SEARCH: frozenset({"override_qat_cfg", "ptq_cfg", "quant_bit_limit"}),
}

#: Fields that pruning and the search for bit widths both have.
_EITHER = frozenset({"compress_ratio", "test_iteration"})

_OF_LAYERS: dict[str, frozenset[str]] = {
    _KV: frozenset({"kv_data_quant_config"}),
    _DISTILL: frozenset({"distill_data_config", "distill_weight_config"}),
}

#: Names of such sections at the top of a file, and in the object of a layer.
ASIDE = frozenset().union(*_FIELDS.values(), _EITHER)
LAYER_ASIDE = frozenset().union(*_OF_LAYERS.values())


def asides(found: Mapping[str, str]) -> list[Note]:
    """Return one sentence for each thing that the sections ask for.

    Args:
        found: The path of each section, and its place.
    """
    either = _PRUNE if any(name in _FIELDS[_PRUNE] for name in found) else _SEARCH
    told: dict[str, list[str]] = {}
    for path in found:
        name = path.rpartition(".")[2]
        fields = (
            (what, names | _OF_LAYERS.get(what, frozenset())) for what, names in _FIELDS.items()
        )
        what = next((what for what, names in fields if name in names), either)
        told.setdefault(what, []).append(path)
    return [
        Note(
            found[paths[0]],
            f"{what}: {', '.join(paths)} {'is' if len(paths) == 1 else 'are'} left aside.",
        )
        for what, paths in told.items()
    ]


def without_asides(document: Document) -> tuple[Document, list[Note]]:
    """Return a `config.json` without such sections, and a sentence for each thing that they ask for."""
    found: dict[str, str] = {}
    content: dict[str, Any] = {}
    for name, value in document.content.items():
        if isinstance(value, dict):
            content[name] = {k: v for k, v in value.items() if k not in LAYER_ASIDE}
            left: list[KeyPath] = [(name, k) for k in value if k in LAYER_ASIDE]
        elif name in ASIDE:
            left = [(name,)]
        else:
            content[name] = value
            left = []
        found.update({path_text(at): document.where(at) for at in left})
    return replace(document, content=content), asides(found)
