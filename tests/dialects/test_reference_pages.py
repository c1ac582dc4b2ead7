"""The reference pages of the vendors' files name every field, and each reader starts with the table it implements."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from calibrant import dialects
from calibrant.dialects.amct import asides, json_schema, retrain_json
from calibrant.dialects.amct.cfg_schema import AMCTConfig
from calibrant.dialects.amct.retrain_cfg_schema import AMCTRetrainConfig, PruneConfig
from calibrant.dialects.ascend.cfg import CalibrationFile
from calibrant.dialects.horizon import legacy, schema

DOCS = Path(__file__).parents[2] / "docs" / "reference"

ASCEND = (
    AMCTConfig,
    AMCTRetrainConfig,
    CalibrationFile,
    json_schema.ConfigDocument,
    json_schema.LayerParams,
    json_schema.ActivationParams,
    json_schema.WeightParams,
    retrain_json.Globals,
    retrain_json.LayerConfig,
    retrain_json.DataConfig,
    retrain_json.WeightConfig,
)
HORIZON = (schema.ModelConfig, schema.FineConfig, schema.SubgraphConfig)

#: Modules of a dialect that neither read nor describe a file.
OTHERS = {"common", "write", "retrain_write", "dump"}


def fields(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> Iterator[str]:
    """Yield the names of a model's fields, and of those inside them; what is read and not done is left out."""
    seen = set() if seen is None else seen
    if model in seen or model is PruneConfig:
        return
    seen.add(model)
    for name, info in model.model_fields.items():
        yield name
        for inner in models(info.annotation):
            yield from fields(inner, seen)


def models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


@pytest.mark.parametrize(
    ("page", "sections", "more"),
    [
        ("ascend-configurations.md", ASCEND, asides.ASIDE | asides.LAYER_ASIDE),
        ("horizon-configurations.md", HORIZON, {*legacy._KEYS, *schema.QTYPES, *schema.METHODS}),
    ],
)
def test_the_page_names_every_field(
    page: str, sections: tuple[type[BaseModel], ...], more: set[str]
) -> None:
    text = (DOCS / page).read_text()
    words = set(re.findall(r"[\w.-]+", text.replace("`", " ")))
    words |= {part for word in words for part in word.split(".")}
    wanted = {name for section in sections for name in fields(section)} | set(more)
    assert not wanted - words


def modules() -> list[str]:
    found = pkgutil.walk_packages(dialects.__path__, f"{dialects.__name__}.")
    names = [m.name for m in found if not m.ispkg and m.name.count(".") > 2]
    return [n for n in names if n.rsplit(".", 1)[1] not in OTHERS]


@pytest.mark.parametrize("name", modules())
def test_each_dialect_file_starts_with_what_it_implements(name: str) -> None:
    doc = importlib.import_module(name).__doc__ or ""
    if ".native." not in name:
        assert "|---|" in doc
        assert "configurations.md" in doc
    assert not re.search(r"(?<![\w/-])(ascend|horizon)\.md", doc)
