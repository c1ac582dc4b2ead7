"""The YAML keys of the old chain as a `quant_config`.

| Key of `calibration_parameters` | Becomes |
|---|---|
| `calibration_type`, `max_percentile`, `per_channel` | `model_config.activation` |
| `optimization` | `model_output_type`, `all_node_type`, `op_config`, `asymmetric`, `bias_correction` |
| `run_on_cpu`, `node_info` (also of `model_parameters`) | `node_config` |
| `cal_data_dir` | a folder for each input |
| `quant_config` | itself, in place or in a file |
| `run_on_bpu`, `cal_data_type`, `preprocess_on` | a note |

Source: docs/reference/horizon-configurations.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from calibrant.errors import ConfigTypeError, ConfigValueError, Problems, did_you_mean
from calibrant.recipe import Note, Source
from calibrant.text.json_text import read_json
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["LEGACY_SECTION", "from_legacy"]

LEGACY_SECTION = "calibration_parameters"

_OTHER_SECTIONS = ("model_parameters", "input_parameters", "compiler_parameters")
_KEYS = (
    "calibration_type",
    "max_percentile",
    "per_channel",
    "optimization",
    "run_on_cpu",
    "run_on_bpu",
    "node_info",
    "cal_data_dir",
    "cal_data_type",
    "preprocess_on",
    "quant_config",
)
_PER_OP = re.compile(r"set_(\w+)_(?:input|output)_(int8|int16)")


def from_legacy(
    document: Document, problems: Problems
) -> tuple[Document, tuple[Source, ...] | None, list[Note]]:
    """Return the quant_config that the old keys mean.

    Args:
        document: A mapping.
        problems: Gets unknown keys and optimizations, and values of the wrong type.

    Returns:
        The document, the folders of calibration data (None where nothing is said, none at all for random
        data), and what to note.
    """
    return _Legacy(document, problems).read()


class _Legacy:
    def __init__(self, document: Document, problems: Problems) -> None:
        self._document, self._problems = document, problems
        self._notes: list[Note] = []
        self._model: dict[str, Any] = {}
        self._ops: dict[str, Any] = {}
        self._nodes: dict[str, Any] = {}
        self._lines = dict(document.lines)

    def read(self) -> tuple[Document, tuple[Source, ...] | None, list[Note]]:
        caught = self._problems.caught
        top = self._document.content
        for key in top:
            if key in _OTHER_SECTIONS:
                about = "only its node_info, run_on_cpu and run_on_bpu are about quantization"
                text = f"{key} is left aside: {about if key == 'model_parameters' else 'it is not about quantization'}."
                self._note((key,), text, honoured=True)
            elif key != LEGACY_SECTION:
                self._problems.add(self._unknown((key,), (LEGACY_SECTION, *_OTHER_SECTIONS)))
        section: dict[str, Any] = {}
        with caught():
            section = self._mapping((LEGACY_SECTION,))
        for key in section:
            if key not in _KEYS:
                self._problems.add(self._unknown((LEGACY_SECTION, key), _KEYS))
        inline: dict[str, Any] = {}
        with caught():
            inline = self._inline(section)
        self._activation(section)
        with caught():
            self._optimizations(section)
        model = top.get("model_parameters", {})
        for at, owner in (((LEGACY_SECTION,), section), (("model_parameters",), model)):
            if isinstance(owner, dict):
                self._placed(owner, at)
        sources: tuple[Source, ...] | None = None
        with caught():
            sources = self._data(section)
        for key in ("cal_data_type", "preprocess_on"):
            if key in section:
                text = f"{key} is deprecated and has no effect: data is preprocessed .npy files."
                self._note((LEGACY_SECTION, key), text)
        content = self._merged(inline)
        return Document(content, self._document.source, self._lines), sources, self._notes

    def _inline(self, section: dict[str, Any]) -> dict[str, Any]:
        """Return the quant_config that stands in the section, or in the file that it names."""
        inline = section.get("quant_config", {})
        if isinstance(inline, str):
            inline = self._file(inline)
        if not isinstance(inline, dict):
            raise ConfigTypeError(
                f"{self._document.where((LEGACY_SECTION, 'quant_config'))}: quant_config is {inline!r}; it "
                "is a mapping, or the path of a JSON file."
            )
        return inline

    def _file(self, name: str) -> Any:
        """Read the JSON file that quant_config names, beside this one or from where we are."""
        places = [Path(self._document.source).parent / name, Path(name)]
        path = next((p for p in places if p.is_file()), None)
        if path is None:
            raise ConfigValueError(
                f"{self._document.where((LEGACY_SECTION, 'quant_config'))}: quant_config names the file "
                f"'{name}', which does not exist."
            )
        return read_json(path.read_text(encoding="utf-8-sig"), path).content

    def _activation(self, section: dict[str, Any]) -> None:
        said = {
            k: section[k]
            for k in ("calibration_type", "max_percentile", "per_channel")
            if k in section
        }
        if said.get("calibration_type", "default") == "default":
            for key in ("max_percentile", "per_channel"):
                if said.pop(key, None) is not None:
                    self._note(
                        (LEGACY_SECTION, key),
                        f"{key} has no effect with calibration_type default.",
                    )
        if said:
            self._model["activation"] = said
        for key in said:
            self._follow((LEGACY_SECTION, key), ("model_config", "activation", key))

    def _optimizations(self, section: dict[str, Any]) -> None:
        at: KeyPath = (LEGACY_SECTION, "optimization")
        for token in self._names(section.get("optimization", ""), at, r"[,;]"):
            per_op = _PER_OP.fullmatch(token)
            if token in ("set_model_output_int8", "set_model_output_int16"):
                self._model["model_output_type"] = token.removeprefix("set_model_output_")
                self._follow(at, ("model_config", "model_output_type"))
            elif token == "set_all_nodes_int16":
                self._model["all_node_type"] = "int16"
                self._follow(at, ("model_config", "all_node_type"))
            elif per_op is not None:
                self._ops[per_op[1]] = {"qtype": per_op[2]}
                self._follow(at, ("op_config", per_op[1]))
            elif token == "asymmetric":
                self._model.setdefault("activation", {})["asymmetric"] = True
            elif token == "bias_correction":
                self._model["weight"] = {"bias_correction": {}}
            else:
                known = [
                    "set_model_output_int8",
                    "set_model_output_int16",
                    "set_all_nodes_int16",
                    "set_{op}_input_int8",
                    "set_{op}_output_int16",
                    "asymmetric",
                    "bias_correction",
                ]
                self._problems.add(
                    ConfigValueError(
                        f"{self._document.where(at)}: {path_text(at)} has '{token}'. Known: {', '.join(known)}."
                        + did_you_mean(token, known)
                    )
                )

    def _placed(self, owner: dict[str, Any], at: KeyPath) -> None:
        """Read which nodes run where; node_info beats the lists."""
        with self._problems.caught():
            for name in self._names(owner.get("run_on_cpu", ""), (*at, "run_on_cpu"), ";"):
                self._nodes[name] = {"qtype": "float32"}
                self._follow((*at, "run_on_cpu"), ("node_config", name))
        with self._problems.caught():
            for name in self._names(owner.get("run_on_bpu", ""), (*at, "run_on_bpu"), ";"):
                text = f"'{name}' is quantized wherever it can be, as all nodes are."
                self._note((*at, "run_on_bpu"), text, honoured=True)
        with self._problems.caught():
            for name in self._mapping((*at, "node_info")) if "node_info" in owner else ():
                with self._problems.caught():
                    self._node_info(name, (*at, "node_info", name))

    def _node_info(self, name: str, at: KeyPath) -> None:
        """Read what is said of one node."""
        found: dict[str, Any] = {}
        for key, value in self._mapping(at).items():
            if key == "ON" and value in ("CPU", "BPU"):
                if value == "CPU":
                    found.setdefault("qtype", "float32")
            elif key in ("ON", "InputType", "OutputType"):
                found["qtype"] = value
            else:
                self._problems.add(self._unknown((*at, key), ("ON", "InputType", "OutputType")))
        if found:
            self._nodes[name] = found
            self._follow(at, ("node_config", name))

    def _data(self, section: dict[str, Any]) -> tuple[Source, ...] | None:
        if "cal_data_dir" not in section:
            return None
        folders = self._names(section["cal_data_dir"] or "", (LEGACY_SECTION, "cal_data_dir"), ";")
        return tuple(Source(path=folder, kind="numbers") for folder in folders)

    def _merged(self, inline: dict[str, Any]) -> dict[str, Any]:
        """Lay the old keys over an inline quant_config; the same key in both is an error of the finer one."""
        own = {"model_config": self._model, "op_config": self._ops, "node_config": self._nodes}
        content = {k: dict(v) if isinstance(v, dict) else v for k, v in inline.items()}
        for key in inline:
            self._follow((LEGACY_SECTION, "quant_config", key), (key,))
        for section, entries in own.items():
            both = set(entries) & set(content.get(section, {}))
            for name in sorted(both):
                self._problems.add(
                    ConfigValueError(
                        f"{self._document.source}: {section}.{name} is said by quant_config and by an old key as well."
                    )
                )
            if entries:
                content[section] = {**content.get(section, {}), **entries}
        return content

    def _names(self, value: Any, at: KeyPath, separator: str) -> list[str]:
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return value
        if not isinstance(value, str):
            raise ConfigTypeError(
                f"{self._document.where(at)}: {path_text(at)} is {value!r}; it is a text."
            )
        return [part.strip() for part in re.split(separator, value) if part.strip()]

    def _mapping(self, at: KeyPath) -> dict[str, Any]:
        content = self._document.content
        for key in at:
            content = content[key]
        if not isinstance(content, dict):
            raise ConfigTypeError(
                f"{self._document.where(at)}: {path_text(at)} is {content!r}; it is a mapping."
            )
        return content

    def _unknown(self, at: KeyPath, known: tuple[str, ...]) -> ConfigValueError:
        return ConfigValueError(
            f"{self._document.where(at)}: {path_text(at)} is not known. Known: {', '.join(known)}."
            + did_you_mean(str(at[-1]), known)
        )

    def _follow(self, old: KeyPath, new: KeyPath) -> None:
        for path, line in self._document.lines.items():
            if path[: len(old)] == old:
                self._lines[(*new, *path[len(old) :])] = line

    def _note(self, at: KeyPath, message: str, *, honoured: bool = False) -> None:
        self._notes.append(Note(self._document.where(at), message, honoured))
