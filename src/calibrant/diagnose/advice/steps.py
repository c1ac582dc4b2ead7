"""Advice as values: steps that were tried, what each gains, and what the checks before quantization saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrant.diagnose.triage.finding import Finding
from calibrant.recipe import Recipe
from calibrant.save.folder import written_together
from calibrant.text.json_out import json_of

__all__ = ["JSON_FILE", "Advice", "Culprit", "Step", "Tried"]

JSON_FILE = "advice.json"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, which was tried.

    Args:
        layers: Nodes it is for, the one that loses most first; of a step for the whole model, those that make most of the loss;
            empty where it is for the data.
        cause: What it does away with: `clipping`, `rounding`, `range` (few channels or values hold the range), `mask`, `data`,
            `bias`, or `shared` (one weight, inputs of very different size).
        what: What is seen, and what to do, in a sentence.
        move: The kind of step: `algorithm`, `per-channel`, `balance`, `int16`, `float32`, `clamp`, `data`, `together`, ….
        gain_db: What the outputs gain, mean over their parts [dB].
        score_db: What they have then [dB].
        parts: The same, part by part [dB].
        recipe: The recipe that does it, as text (YAML); the rules that were added stand at its end.
        rules: These rules alone.
        costs: What it asks of the device, or nothing.
        metric: What the task metric says then; None without one.
        evidence: What the risk catalogue says of such places; empty where it says nothing.
    """

    layers: tuple[str, ...]
    cause: str
    what: str
    move: str
    gain_db: float
    score_db: float
    parts: dict[str, float]
    recipe: str
    rules: str
    costs: str = ""
    metric: float | None = None
    evidence: str = ""

    def content(self) -> dict[str, Any]:
        """Return it as plain values."""
        found = {
            "layers": list(self.layers),
            "cause": self.cause,
            "what": self.what,
            "move": self.move,
            "gain_db": self.gain_db,
            "score_db": self.score_db,
            "parts": self.parts,
            "recipe": self.recipe,
            "rules": self.rules,
            "costs": self.costs,
            "evidence": self.evidence,
        }
        return found if self.metric is None else {**found, "metric": self.metric}


@dataclass(frozen=True, slots=True)
class Culprit:
    """A place where the outputs lose.

    Args:
        layers: Nodes to name it by.
        tensor: What is quantized.
        kind: `activation` or `weight`.
        cause: As in `Step`.
        share: Of what all such places lose alone.
        loss_db: SQNR of the outputs where it alone is quantized [dB].
    """

    layers: tuple[str, ...]
    tensor: str
    kind: str
    cause: str
    share: float
    loss_db: float

    def content(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "layers": list(self.layers),
            "tensor": self.tensor,
            "kind": self.kind,
            "cause": self.cause,
            "share": self.share,
            "loss_db": self.loss_db,
        }


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about a loss.

    Args:
        model: Path of the model, or `(in memory)`.
        target: What it is quantized for.
        score_db: What the outputs have now, mean over their parts [dB].
        parts: The same, part by part [dB].
        samples: Samples that this was measured on.
        findings: What the checks before quantization saw.
        culprits: Places where the outputs lose most.
        steps: What to do, best first.
        recipe: The recipe as it was decided, as text (YAML), which steps are compared with.
        trials: How many recipes were solved.
        metric: What the task metric says of the quantized model now, and of the float model; empty without one.
        notes: What was not looked at, and why.
        answer: What to do now, in a sentence or two.
        command: The search for the cheapest model that reaches 20 dB, as a command; empty where the outputs have as much.
    """

    model: str
    target: str
    score_db: float
    parts: dict[str, float]
    samples: int
    findings: tuple[Finding, ...]
    culprits: tuple[Culprit, ...]
    steps: tuple[Step, ...]
    recipe: str
    trials: int = 0
    metric: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    answer: str = ""
    command: str = ""

    def content(self) -> dict[str, Any]:
        """Return it as plain values, steps best first."""
        return {
            "model": self.model,
            "target": self.target,
            "score_db": self.score_db,
            "parts": self.parts,
            "samples": self.samples,
            "steps": [step.content() for step in self.steps],
            "findings": [finding.content() for finding in self.findings],
            "culprits": [culprit.content() for culprit in self.culprits],
            "recipe": self.recipe,
            "trials": self.trials,
            "metric": self.metric,
            "notes": list(self.notes),
            "answer": self.answer,
            "command": self.command,
        }

    def json(self) -> str:
        """Return it as JSON; numbers that JSON does not have are texts (`nan`, `inf`, `-inf`)."""
        return json_of(self.content())

    def save(self, folder: str | Path) -> list[Path]:
        """Write `advice.json` into a folder, which is made if it is not there.

        Raises:
            OutputError: It cannot be written.
        """
        place = Path(folder)
        with written_together(place) as new:
            (new / JSON_FILE).write_text(self.json() + "\n", encoding="utf-8")
        return [place / JSON_FILE]


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """A step on its way: what was asked, and what came of it.

    Args:
        layers: Nodes.
        cause: What it does away with.
        seen: What is seen there, a clause.
        done: What is done about it, a clause.
        move: Kind of step.
        price: Place of the move among others by what it asks of the device; 0 for nothing.
        costs: What it asks, in words.
        recipe: The whole recipe.
        added: The part of it that is new.
        units: How many places are changed.
        evidence: Of the risk catalogue.
        whole: It is for the whole model; `layers` are those that lose most.
    """

    layers: tuple[str, ...]
    cause: str
    seen: str
    done: str
    move: str
    price: int
    costs: str
    recipe: Recipe
    added: Recipe
    units: int = 1
    evidence: str = ""
    whole: bool = False
