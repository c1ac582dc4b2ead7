"""What a quantization leaves: two models, their parameters, the plan, and a summary; and how it is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from calibrant.findings import Findings, NodeChoice
from calibrant.formats import artefacts, check_formats
from calibrant.formats._files import as_json, merged
from calibrant.graph.form import ModelForm
from calibrant.graph.proto import as_proto
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.record.recording import Recording
from calibrant.report import as_html, as_text
from calibrant.save.folder import written_together
from calibrant.save.manifest import SUMMARY, files_of_before, with_files
from calibrant.save.size import weight_bytes
from calibrant.save.tables import choices_table, plan_table
from calibrant.solution import NOT_FOR_ACCURACY, Built, Solution, build
from calibrant.stats import Statistics
from calibrant.summary import summarize

if TYPE_CHECKING:
    import onnx

__all__ = ["QuantizedModel", "result_of"]

#: Names of the two models, without `.onnx`.
MODELS = ("deploy", "fake_quant")

#: What a search node by node found.
CHOICES = "layerwise_search.csv"

#: Files over this go beside the model, as ONNX external data (protobuf ends at 2 GiB).
EXTERNAL_BYTES = 1_500_000_000


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """The result of `calibrant.quantize`.

    Args:
        solution: What was decided: the float model in its form, the plan, the parameters.
        built: Its two models.
        findings: What was found on the way, and what was measured.
        statistics: What was seen of each tensor.
        summary: What was done and how good it is; plain values, as in `summary.json`.
        source: The model as it was given, for the summary.
    """

    solution: Solution
    built: Built
    findings: Findings = field(default_factory=Findings)
    statistics: Statistics = field(default_factory=lambda: Statistics({}))
    summary: dict[str, Any] = field(default_factory=dict)
    source: Any = None

    @property
    def deploy(self) -> ir.Model:
        """Standard ONNX with QuantizeLinear and DequantizeLinear."""
        return self.built.deploy

    @property
    def fake_quant(self) -> ir.Model:
        """Float arithmetic with one function call a quantizer."""
        return self.built.fake_quant

    @property
    def params(self) -> Parameters:
        """Scales and zero points by quantizer, integer weights and biases by layer."""
        return self.solution.params

    @property
    def plan(self) -> Plan:
        """Where quantizers stand and which rule decided each."""
        return self.solution.plan

    @property
    def original(self) -> ir.Model:
        """The float model as it was given."""
        return self.solution.original

    @property
    def float_model(self) -> ir.Model:
        """The float model that the plan belongs to: prepared, folded, equalized."""
        return self.solution.model

    @property
    def form(self) -> ModelForm:
        """What was done to `original` to make `float_model`."""
        return self.solution.form

    @property
    def record(self) -> Recording:
        """The content of `record.txt`."""
        return self.solution.record

    @property
    def choices(self) -> tuple[NodeChoice, ...]:
        """What a search node by node found, every candidate of every node."""
        return self.findings.search.rows if self.findings.search is not None else ()

    def __repr__(self) -> str:
        return as_text(self.summary)

    def _repr_html_(self) -> str:
        return as_html(self.summary)

    def to_proto(self) -> onnx.ModelProto:
        """Return the deployed model as `onnx.save` takes it.

        Raises:
            ModelError: It is larger than a message of ONNX can be (2 GiB); `save` writes such models.
        """
        return as_proto(self.deploy)

    def to_bytes(self) -> bytes:
        """Return the deployed model as `onnxruntime.InferenceSession` takes it; errors as for `to_proto`."""
        return bytes(self.to_proto().SerializeToString())

    def save(
        self,
        directory: str | Path,
        *,
        formats: Sequence[str] = (),
        prefix: str = "",
        texts: Mapping[str, str] | None = None,
        report: bool = False,
    ) -> list[Path]:
        """Write every result into a folder.

        `deploy.onnx`, `fake_quant.onnx`, `record.txt`, `record.json`, `plan.json`, `summary.json`, and
        `layerwise_search.csv` where candidates were chosen node by node. All are there or none: a full disk
        or an interrupted run leaves what was there before. The folder holds one run: the files of an earlier
        one go (`summary.json` lists them under `files`), and files of others stay.

        Args:
            directory: The folder; it is made if it is not there.
            formats: Vendors whose files are written as well (`calibrant.formats`).
            prefix: What their names begin with, an underscore behind it; the names above have none.
            texts: Further files by name, such as a report, that belong to the run.
            report: Write `report.html`, too: one page of all of it, and of what `texts` holds for it
                (`calibrant.diagnose.evidence`). Needs the extra `report`.

        Returns:
            The files.

        Raises:
            ConfigValueError: There is no such format, or the prefix is no part of a file's name.
            OutputError: The folder cannot be made or written.
            MissingPackageError: A report is asked for, and a package that makes it is not installed.
        """
        check_formats(formats, prefix)
        page = _page() if report else None
        folder = Path(directory)
        more = [
            artefacts(self.solution, self.built, self.findings, name, prefix)
            for name in dict.fromkeys(formats)
        ]
        with written_together(folder, instead_of=files_of_before(folder)) as temporary:
            self._write(temporary)
            for files in more:
                for name, model in files.models.items():
                    _save(model, temporary / name)
            for name, text in merged([files.texts for files in more]).items():
                (temporary / name).write_text(text, encoding="utf-8")
            for name, text in (texts or {}).items():
                (temporary / name).write_text(text, encoding="utf-8")
            pages = [page.PAGE_FILE] if page is not None else []
            names = sorted({SUMMARY, *pages, *(p.name for p in temporary.iterdir())})
            summary = as_json(with_files(self.summary, names))
            (temporary / SUMMARY).write_text(summary, encoding="utf-8")
        if page is not None:  # behind the results: whatever becomes of the page, they are there
            with written_together(folder) as temporary:
                text = page.page_of(page.read_run(folder))
                (temporary / page.PAGE_FILE).write_text(text, encoding="utf-8")
        return [folder / name for name in names]

    def _write(self, folder: Path) -> None:
        for name, model in zip(MODELS, (self.deploy, self.fake_quant), strict=True):
            _save(model, folder / f"{name}.onnx")
        record = self.record
        texts = {
            "record.txt": record.text(),
            "record.json": as_json(record.content()),
            "plan.json": as_json(plan_table(self.plan, self.params)),
        }
        if self.solution.random:
            texts["record.txt"] = f"# {NOT_FOR_ACCURACY}\n{texts['record.txt']}"
            extras = [*record.extras, {"calibration": NOT_FOR_ACCURACY}]
            texts["record.json"] = as_json(replace(record, extras=extras).content())
        if self.choices:
            texts[CHOICES] = choices_table(self.choices)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def _save(model: ir.Model, path: Path) -> None:
    """Write one model, its weights beside it where the file would be too large."""
    external = f"{path.name}.data" if weight_bytes(model) > EXTERNAL_BYTES else None
    ir.save(model, path, external_data=external)


def result_of(
    source: Any,
    solution: Solution,
    findings: Findings,
    *,
    built: Built | None = None,
    statistics: Statistics | None = None,
) -> QuantizedModel:
    """Return the result of a solution, with its summary.

    Args:
        source: The model as it was given.
        solution: What was decided.
        findings: What was found and measured.
        built: Its models, where they are there already.
        statistics: What was seen of each tensor.
    """
    built = built if built is not None else build(solution)
    statistics = statistics if statistics is not None else Statistics({})
    summary = summarize(source, solution, built, findings, statistics)
    return QuantizedModel(solution, built, findings, statistics, summary, source)


def _page() -> ModuleType:
    """Return what makes the report page, which takes a tenth of a second to import.

    Raises:
        MissingPackageError: A package that it needs is not installed.
    """
    from calibrant.report import page

    page.check_packages()
    return page
