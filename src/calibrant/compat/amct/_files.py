"""The files of AMCT's functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant.errors import OutputError
from calibrant.graph.values import own_copy
from calibrant.results import EXTERNAL_BYTES
from calibrant.save.size import weight_bytes
from calibrant.save.whole import write_whole
from calibrant.solution import Solution, build
from calibrant.tuning.strategies.amct_rollback import PREFIX
from calibrant.tuning.strategies.roll_back import RollBack

__all__ = ["Place", "write_models"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where files go.

    Args:
        record: The file of the parameters.
        prefix: Folder and prefix of the models.
    """

    record: Path
    prefix: str

    @property
    def folder(self) -> Path:
        """The folder of the models."""
        return Path(self.prefix if self.prefix.endswith("/") else Path(self.prefix).parent)

    @property
    def models(self) -> tuple[Path, Path]:
        """The files of both models."""
        name = "" if self.prefix.endswith("/") else f"{Path(self.prefix).name}_"
        return (
            self.folder / f"{name}fake_quant_model.onnx",
            self.folder / f"{name}deploy_model.onnx",
        )

    def with_models(
        self, found: RollBack, solution: Solution, content: dict[str, Any]
    ) -> list[Path]:
        """Write models, parameters, the final configuration, and what every run leaves; return the files."""
        built = build(solution)
        texts = self._texts(found)
        texts[self.record] = solution.record.text()
        texts[self.folder / f"{PREFIX}_final_config.json"] = _json(content)
        files = self._write(texts)
        write_models(dict(zip(self.models, (built.fake_quant, built.deploy), strict=True)))
        return [*self.models, *files]

    def without_models(self, found: RollBack) -> list[Path]:
        """Write what every run leaves, and take away models of an earlier one; return the files."""
        for path in (*self.models, self.folder / f"{PREFIX}_final_config.json"):
            path.unlink(missing_ok=True)
        return self._write(self._texts(found))

    def _texts(self, found: RollBack) -> dict[Path, str]:
        return {
            self.folder / f"{PREFIX}_ranking_information.json": _json(
                [list(item) for item in found.ordered]
            ),
            self.folder / "amct_log" / f"{PREFIX}_record.json": _json(found.history_content()),
        }

    def _write(self, texts: Mapping[Path, str]) -> list[Path]:
        for path, text in texts.items():
            write_whole(path, text, folders=True)
        return list(texts)


def write_models(models: Mapping[Path, ir.Model]) -> None:
    """Write models, with the folders around them; constants beyond the limit of an ONNX file go beside it.

    Raises:
        OutputError: One cannot be written.
    """
    for path, model in models.items():
        weights = [v.const_value for g in model.graphs() for v in g.initializers.values()]
        if any(isinstance(w, ir.ExternalTensor) for w in weights):
            model = own_copy(model)  # the files of its weights lie beside another model
        beside = f"{path.name}.data" if weight_bytes(model) > EXTERNAL_BYTES else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            ir.save(model, path, external_data=beside)
        except OSError as e:
            raise OutputError(f"'{path}' cannot be written: {e.strerror or e}.") from e


def _json(content: Any) -> str:
    return json.dumps(content, indent=4, separators=(",", ":"), ensure_ascii=False) + "\n"
