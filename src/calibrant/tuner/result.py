"""What a tuning run ends with: the best model, what it costs and scores, and all that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant.dialects import dump_recipe
from calibrant.recipe import Recipe
from calibrant.results import QuantizedModel
from calibrant.save.folder import written_together
from calibrant.text.json_out import json_of
from calibrant.tuner.costs import average_bits_of
from calibrant.tuner.evaluations import Counts, Verdict
from calibrant.tuner.markdown import shown
from calibrant.tuner.moves import MoveTried
from calibrant.tuner.report import as_markdown
from calibrant.tuner.requirement import Requirement
from calibrant.tuner.told import Told
from calibrant.tuner.why import why
from calibrant.tuning.menu import Menu
from calibrant.tuning.questions import Found, Trial

__all__ = ["RECIPE", "TuningResult"]

#: Names of the files that come beside those of `quantize`.
RECIPE, REPORT, REPORT_JSON = "recipe.yaml", "tuning_report.md", "tuning_report.json"

#: The float model with trained weights, which the record of a trained model belongs to.
TRAINED = "trained.onnx"


@dataclass(frozen=True, slots=True, eq=False)
class TuningResult:
    """The result of `calibrant.tune`.

    Args:
        result: The best model, as `calibrant.quantize` returns it.
        recipe: The recipe that it comes from.
        met: It meets the requirement.
        required: What was required.
        metric: Name of the score.
        labelled: The score knows what is right; otherwise it is the likeness to the float model's outputs.
        higher_is_better: Of the score.
        float_score: What the float model scores.
        allowed: How much worse a score may be, in its units.
        menu: The layers, their precisions, and what each costs.
        search: What was tried, and why it ended.
        verdict: What the best model reaches on all evaluation samples, those held out too.
        unit: What `cost` counts: `macs` (multiplications times bits), `size` (bytes of weights), or a table's file.
        counts: Evaluations, those that an earlier run with the same journal had made among them.
        reused: Answers that came from the journal of an earlier run.
        errors: Precision -> layer -> what it loses alone (energy of the error over energy of the signal).
        seconds: Wall time of the run.
        interrupted: What ended it early: `Ctrl-C`, `time`; empty where it ended by itself.
        notes: What is to be said of it.
        told: What a vendor's procedure tells beside; None for `auto`.
        moves: What was tried before layers were raised, those that were taken first.
    """

    result: QuantizedModel
    recipe: Recipe
    met: bool
    required: Requirement
    metric: str
    labelled: bool
    higher_is_better: bool
    float_score: float | Mapping[str, float]
    allowed: float
    menu: Menu
    search: Found
    verdict: Verdict
    unit: str
    counts: Counts
    reused: int
    errors: Mapping[str, Mapping[str, float]]
    seconds: float
    interrupted: str = ""
    notes: tuple[str, ...] = ()
    told: Told | None = None
    moves: tuple[MoveTried, ...] = ()

    @property
    def best(self) -> Trial:
        """The trial that the model comes from."""
        return self.search.best

    @property
    def score(self) -> float | Mapping[str, float]:
        """Its score, or several by name."""
        scores = self.best.reached.scores
        return self.best.reached.score if scores is None else scores

    @property
    def cost(self) -> float:
        """What it costs, in units of the cost model."""
        return self.best.cost

    @property
    def precisions(self) -> dict[str, str]:
        """Layer -> its precision, in graph order."""
        return dict(zip(self.menu.layers, self.best.assignment, strict=True))

    @property
    def raised(self) -> tuple[str, ...]:
        """The layers that are not in their cheapest precision, in graph order."""
        return tuple(self.menu.raised(self.best.assignment))

    @property
    def trained(self) -> bool:
        """Its weights and ranges were trained."""
        return self.best.trained

    @property
    def front(self) -> tuple[Trial, ...]:
        """Trials that no other one beats in both score and cost, the cheapest first."""
        found: list[Trial] = []
        for trial in sorted(self.search.trials, key=lambda t: (t.cost, t.reached.loss)):
            if not found or trial.reached.loss < found[-1].reached.loss:
                found.append(trial)
        return tuple(found)

    def __repr__(self) -> str:
        verdict = "meets" if self.met else "does not meet"
        counts = ", ".join(
            f"{n} in {p}" for p, n in self.menu.counts(self.best.assignment).items()
        )
        return (
            f"{self.metric} {shown(self.score)} ({shown(self.float_score)} in float) {verdict} {self.required}; layers: {counts}; "
            f"{self.counts.full} full evaluations."
        )

    def content(self, folder: str | Path | None = None) -> dict[str, Any]:
        """Return what `calibrant tune --json` prints, as plain values.

        Args:
            folder: Where it was saved, for the paths; None leaves them null.
        """
        place = Path(folder) if folder is not None else None
        return {
            "met": self.met,
            "score": _plain(self.score),
            "float": _plain(self.float_score),
            "cost": self.cost,
            "evaluations": {
                "full": self.counts.full,
                "partial_samples": self.counts.partial_samples,
                "precheck_samples": self.counts.precheck_samples,
            },
            "layers": dict(self.menu.counts(self.best.assignment)),
            "raised": list(self.raised),
            "moves": [m.content() for m in self.moves],
            "trained": self.trained,
            "recipe": str(place / RECIPE) if place is not None else None,
            "deploy": str(place / "deploy.onnx") if place is not None else None,
            "metric": self.metric,
            "labelled": self.labelled,
            "higher_is_better": self.higher_is_better,
            "required": str(self.required),
            "allowed_loss": self.allowed,
            "loss_interval": list(self.verdict.interval) if self.verdict.interval else None,
            "held_out": asdict(self.verdict.held_out) if self.verdict.held_out else None,
            "cost_unit": self.unit,
            "average_bits": average_bits_of(self.menu, self.cost) if self.unit == "size" else None,
            "costs": self.costs,
            "reason": self.search.reason,
            "interrupted": self.interrupted or None,
            "reused": self.reused,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    @property
    def costs(self) -> dict[str, float]:
        """What all layers cost in one precision, by precision."""
        return {p: self.menu.cost_of((p,) * len(self.menu.layers)) for p in self.menu.precisions}

    def report(self) -> dict[str, Any]:
        """Return the content of `tuning_report.json`: what `content` has, every trial, and every layer."""
        found = {**self.content(), "trials": self._trials(), "by_layer": self._layers()}
        if self.told is None:
            return found
        for trial, change in zip(found["trials"], self.told.changes, strict=True):
            trial["change"] = change
        told = self.told
        return {
            **found,
            "strategy": told.strategy,
            "ranking": dict(told.ranking),
            "ranked_by": told.ranked_by,
            "advice": list(told.advice),
        }

    def markdown(self) -> str:
        """Return the content of `tuning_report.md`."""
        return as_markdown(self.report())

    def save(
        self,
        directory: str | Path,
        *,
        formats: Sequence[str] = (),
        more: Mapping[str, str] | None = None,
        report: bool = False,
    ) -> list[Path]:
        """Write the files of `quantize`, the recipe and the report into a folder; errors are those of `QuantizedModel.save`.

        Args:
            directory: The folder.
            formats: Vendors whose files are written as well.
            more: Further files by name, with their texts.
            report: Write `report.html`, too: the search as a picture, and what a report of `quantize` shows. Needs the extra
                `report`.
        """
        texts = {
            **(more or {}),
            RECIPE: dump_recipe(self.recipe),
            REPORT: self.markdown(),
            REPORT_JSON: json_of(self.report()) + "\n",
        }
        texts |= self.told.texts if self.told is not None else {}
        files = self.result.save(directory, formats=formats, texts=texts, report=report)
        if self.trained:
            with written_together(Path(directory)) as temporary:
                ir.save(self.result.float_model, temporary / TRAINED)
            files.append(Path(directory) / TRAINED)
        return [*files, *(self.told.save_folders(directory) if self.told is not None else ())]

    def _trials(self) -> list[dict[str, Any]]:
        return [
            {
                "phase": t.phase,
                "trained": t.trained,
                "score": t.reached.score,
                "scores": t.reached.scores,
                "loss": t.reached.loss,
                "met": t.reached.met,
                "cost": t.cost,
                "error": t.error,
                "predicted_error": t.predicted,
                "layers": dict(self.menu.counts(t.assignment)),
                "raised": self.menu.raised(t.assignment),
                "best": t is self.best,
                "front": any(t is f for f in self.front),
            }
            for t in self.search.trials
        ]

    def _layers(self) -> list[dict[str, Any]]:
        found, reasons = [], why(self.search, self.menu)
        for row, (layer, precision) in enumerate(self.precisions.items()):
            costs = dict(zip(self.menu.precisions, self.menu.cost[row].tolist(), strict=True))
            losses = {p: e[layer] for p, e in self.errors.items()}
            found.append(
                {
                    "name": layer,
                    "precision": precision,
                    "costs": costs,
                    "errors": losses,
                    "why": reasons.get(layer),
                }
            )
        return found


def _plain(score: float | Mapping[str, float]) -> float | dict[str, float]:
    return dict(score) if isinstance(score, Mapping) else score
