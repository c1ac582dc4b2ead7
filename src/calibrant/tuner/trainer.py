"""Train models of a search within a budget, without labels, and judge them on samples that were not trained on.

    training samples ─┬─► seven of eight: the loop of `qat.fit`, some of them held back to choose the best state
                      └─► one of eight: judge, in pairs, calibrated against trained, sample by sample

A training is kept by what it depends on: its figures in the journal, its state as arrays in a folder of the run
(`trained/KEY/checkpoint.npz`). A run that was ended goes on at the last checkpoint, and does not train again what is trained.

Everything here needs torch, which loads where the first training begins.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrant.analysis.better import MIN_SAMPLES, Comparison, clearly_better
from calibrant.analysis.parts import parts_of
from calibrant.analysis.probe import take_probe
from calibrant.analysis.score import SampleScores, sample_scores
from calibrant.analysis.simulate import Simulator
from calibrant.data.digests import data_digest, text_digest
from calibrant.data.open import open_data
from calibrant.errors import ConfigValueError, DataError
from calibrant.graph.digest import digest
from calibrant.qat.recipe import for_calibration
from calibrant.recipe import Recipe
from calibrant.results import QuantizedModel
from calibrant.runtime.inputs import model_inputs
from calibrant.solution import Solution
from calibrant.tuner.journal import Journal
from calibrant.tuning.bench import Bench
from calibrant.tuning.guide import essence

if TYPE_CHECKING:
    from calibrant.qat.fitting import Fitted
    from calibrant.qat.samples import TrainingData

__all__ = ["FOLDER", "Budget", "Trained", "Trainer"]

#: Folder of a run that states are kept in, and the file of each.
FOLDER, STATE = "trained", "checkpoint.npz"

#: One of so many samples judges, and so many at most.
JUDGES, MOST_JUDGES = 8, 64


@dataclass(frozen=True, slots=True)
class Budget:
    """How long each training may take.

    Args:
        minutes: Wall time; None where epochs are counted.
        epochs: How often all samples are gone through; None for 3, where there are no minutes.

    Raises:
        ConfigValueError: Both, or one that is not above 0.

    Example:
        >>> str(Budget(minutes=2.5)), str(Budget(epochs=1)), str(Budget())
        ('2.5 minutes', '1 epoch', '3 epochs')
    """

    minutes: float | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        if self.minutes is not None and self.epochs is not None:
            raise ConfigValueError("train_minutes and train_epochs are given; one of them can be.")
        for name, value in (("train_minutes", self.minutes), ("train_epochs", self.epochs)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigValueError(f"{name} is {value}; it is above 0.")

    def __str__(self) -> str:
        value, unit = (
            (self.minutes, "minute") if self.minutes is not None else (self.epochs or 3, "epoch")
        )
        return f"{value:g} {unit}{'' if value == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to.

    Args:
        better: The trained model is clearly better than the calibrated one on samples that judge; otherwise the trained state
            may still be the better one on those that chose it.
        reason: The comparison in a sentence.
        gain_db: What its outputs gain there [dB].
        noise_db: How far such a gain may lie from nothing by chance [dB].
        calibrated_db: SQNR of the calibrated model's outputs on the samples that chose the state [dB].
        trained_db: The same of the trained model [dB].
        samples: Samples that were trained on.
        judges: Samples that judged.
        steps: Steps of training.
        epochs: The same in epochs.
        minutes: Wall time.
        model: Digest of the deployed model.
    """

    better: bool
    reason: str
    gain_db: float
    noise_db: float
    calibrated_db: float
    trained_db: float
    samples: int
    judges: int
    steps: int
    epochs: float
    minutes: float
    model: str

    def content(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Trained:
        """Return what plain values say."""
        return cls(**content)


@dataclass(slots=True, eq=False)
class Trainer:
    """Trains what recipes lead to.

    Args:
        bench: Where recipes are solved.
        data: Training samples, as calibration data may be; labels are not read.
        budget: How long each training may take.
        journal: What is known already.
        context: Digest of all that a training depends on beside recipe, samples and budget.
        folder: Folder of the run, where states are kept; None keeps them in memory.
        earlier: Folder of an earlier run, whose states are taken over.
        preprocess: File that says how stored samples become inputs.
        deadline: When the run ends, by `time.monotonic`; None for never.
    """

    bench: Bench
    data: Any
    budget: Budget
    journal: Journal
    context: str
    folder: Path | None = None
    earlier: Path | None = None
    preprocess: str | Path | None = None
    deadline: float | None = None
    _samples: TrainingData | None = None
    _digest: str = ""
    _models: dict[str, QuantizedModel] = field(default_factory=dict)
    _cut: dict[str, Trained] = field(default_factory=dict)

    def check(self, recipe: Recipe) -> None:
        """Open the training samples, before anything that takes long is begun.

        Raises:
            DataError: They are not there, or do not fit the model.
        """
        self._opened(for_calibration(recipe))

    def train(self, recipe: Recipe, shown: str) -> Trained:
        """Return what training a recipe's model comes to.

        What the end of the run cuts short is not kept: a run that goes on from here trains anew.

        Args:
            recipe: What is wanted.
            shown: What is trained, for people who read the journal.

        Raises:
            UnsupportedError: Something in the model or the recipe cannot be trained.
            DataError: The samples do not fit, or are too few.
        """
        key = self.key_of(recipe)
        if key in self._cut:
            return self._cut[key]
        known = self.journal.get(key) if self._has_state(key) else None
        if known is not None:
            return Trained.from_content(known)
        start, minutes = time.perf_counter(), self._minutes()
        found = self._judged(self._fitted(key, recipe, minutes), recipe)
        if minutes == self.budget.minutes:
            self.journal.put(key, "training", shown, found.content(), time.perf_counter() - start)
        else:
            self._cut[key] = found
            place = self._place(key)
            if place is not None:
                shutil.rmtree(place, ignore_errors=True)
        return found

    def model(self, recipe: Recipe) -> QuantizedModel:
        """Return the model that training led to; the calibrated one where that is better on the samples that choose.

        A recipe that was trained before is brought back from its state.
        """
        key = self.key_of(recipe)
        if key not in self._models:
            self._fitted(key, recipe, self._minutes())
        return self._models[key]

    def key_of(self, recipe: Recipe) -> str:
        """Return the digest of all that a training depends on."""
        self._digest = self._digest or data_digest(self.data)
        said = (repr(essence(recipe)), self._digest, repr(self.budget), repr(self.preprocess))
        return text_digest(self.context, "training", *said)

    # -------------------------------------------------------------------------------------------- training

    def _fitted(self, key: str, recipe: Recipe, minutes: float | None) -> Fitted:
        """Train, or go on from the state that is there."""
        from calibrant.qat.fitting import fit
        from calibrant.qat.trainable import trainable

        start = time.perf_counter()
        store = self.bench.store
        calibration = for_calibration(recipe)
        solved = self.bench.found(calibration)
        learn, _ = self._divided(calibration)
        with store.progress.stage("training"):
            qat = trainable(
                store.model, solved, recipe, store.progress, store.runtime, start=start
            )
            place = self._place(key)
            fitted = fit(
                qat,
                learn,
                minutes=minutes,
                epochs=self.budget.epochs,
                folder=place,
                resume=place is not None and (place / STATE).is_file(),
            )
        self._models[key] = fitted.result
        return fitted

    def _judged(self, fitted: Fitted, recipe: Recipe) -> Trained:
        """Say whether what was trained is better than what was calibrated, on samples that it did not learn from."""
        calibration = for_calibration(recipe)
        learn, judges = self._divided(calibration)
        if fitted.better:
            calibrated = self.bench.found(calibration).solution
            compared = self._compared(judges, calibrated, fitted.result.solution)
        else:
            reason = "Training was no better than calibration on the samples that choose."
            compared = Comparison(False, True, 0.0, 0.0, {}, (), len(judges), reason)
        return _trained(fitted, compared, len(learn), len(judges))

    def _opened(self, recipe: Recipe) -> TrainingData:
        """Return all training samples; they are read once."""
        from calibrant.qat.samples import read_samples

        if self._samples is None:
            original = self.bench.store.original(recipe)
            self._samples = read_samples(original, self.data, self.preprocess)
        return self._samples

    def _divided(self, recipe: Recipe) -> tuple[TrainingData, TrainingData]:
        """Return samples to train on, and samples that judge."""
        samples = self._opened(recipe)
        unit = samples.fixed or 1
        count = min(MOST_JUDGES, max(MIN_SAMPLES, len(samples) // JUDGES))
        count = -(-count // unit) * unit
        if len(samples) < 3 * count:
            raise DataError(
                f"There are {len(samples)} training samples; {3 * count} are needed, of which {count} judge what is trained on "
                "the others."
            )
        return samples.split(count)

    def _compared(
        self, judges: TrainingData, calibrated: Solution, trained: Solution
    ) -> Comparison:
        """Compare two solutions on samples that neither was trained on, sample by sample."""
        runtime = self.bench.store.runtime
        data = open_data(
            {**judges.inputs, **judges.shared},
            model_inputs(calibrated.original),
            batch_size=judges.fixed,
        )
        probe = take_probe(calibrated.model, iter(data), len(judges), runtime)
        parts = {
            n: parts_of(calibrated.model, n, [r[n] for r in probe.parts_reference])
            for n in probe.scored
        }
        sizes = [b.size for b in probe.small]

        def lost(solution: Solution) -> SampleScores:
            simulator = Simulator(solution.model, probe.scored, runtime)
            outputs = simulator.simulate(solution.plan, solution.params, probe.feeds)
            return sample_scores(probe.scored_reference, outputs, parts, sizes=sizes)

        return clearly_better(lost(trained), lost(calibrated))

    def _minutes(self) -> float | None:
        """Minutes of a training: those of the budget, or what is left of the run where that is less."""
        if self.budget.minutes is None or self.deadline is None:
            return self.budget.minutes
        left = (self.deadline - time.monotonic()) / 60
        return min(self.budget.minutes, max(left, 0.01))

    # ---------------------------------------------------------------------------------------------- states

    def _place(self, key: str) -> Path | None:
        """Return the folder of a training's state, with that of an earlier run in it."""
        if self.folder is None:
            return None
        place = self.folder / FOLDER / key[:16]
        if self.earlier is not None and not (place / STATE).is_file():
            before = self.earlier / FOLDER / key[:16] / STATE
            if before.is_file():
                place.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(before, place / STATE)
        return place

    def _has_state(self, key: str) -> bool:
        """Whether the model of a training can be had without training again."""
        place = self._place(key)
        return key in self._models or (place is not None and (place / STATE).is_file())


def _trained(fitted: Fitted, compared: Comparison, samples: int, judges: int) -> Trained:
    training = fitted.result.summary["training"]
    return Trained(
        compared.better,
        compared.reason,
        compared.gain_db,
        compared.noise_db,
        fitted.calibrated_score,
        fitted.trained_score,
        samples,
        judges,
        int(training["steps"]),
        float(training["epochs"]),
        fitted.seconds / 60,
        digest(fitted.result.deploy),
    )
