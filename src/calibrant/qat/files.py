"""From files to files: read, calibrate, train, write. What `calibrant train` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant.graph.load import load
from calibrant.graph.modules import as_model
from calibrant.plan.fixed import with_fixed
from calibrant.progress import Callback
from calibrant.qat.fitting import Fitted, check_asked, check_enough, fit
from calibrant.qat.labels import check_labels
from calibrant.qat.run_state import Folder
from calibrant.qat.samples import read_samples
from calibrant.qat.trainable import prepare
from calibrant.qat.verdict import Verdict
from calibrant.recipe import Recipe

__all__ = ["train_files"]

#: The float model with trained weights, which the record belongs to.
TRAINED = "trained.onnx"


def train_files(
    model: Any,
    data: Any,
    recipe: Recipe,
    *,
    out: Path,
    example: Any = None,
    evaluation: Any = None,
    metric: str | None = None,
    target: str | Path | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    loss: str = "distill",
    augment: str | None = None,
    lr: float | None = None,
    batch_size: int = 64,
    calibration_samples: int = 128,
    seed: int = 0,
    bn: str = "frozen",
    float_too: bool = False,
    resume: bool = False,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    device: str = "cpu",
    progress: Callback | None = None,
) -> tuple[Fitted, list[Path]]:
    """Train a model, and write the results into a folder.

    Args:
        model: The float model.
        data: Training samples.
        recipe: What is wanted.
        out: The folder.
        example: What a module of torch is called with, as for `prepare`.
        evaluation: Evaluation data with references, for the verdict; None compares outputs on training samples that are
            held back. The state that is kept is chosen on these in any case.
        metric: What the deployed model is scored by on evaluation data.
        target: What the model will run on, over the recipe's.
        epochs: How often all samples are gone through.
        minutes: Wall time instead.
        loss: What is made small.
        augment: `module:function` that changes samples each time they are shown.
        lr: Largest learning rate; None for what suits the widths.
        batch_size: Samples in a step.
        calibration_samples: Samples that ranges are calibrated on.
        seed: Decides the order of the samples.
        bn: Statistics of batch normalization, `frozen` or `live`.
        float_too: Train the float model as long with the same loss, and score it beside.
        resume: Go on where a run in this folder ended.
        preprocess: File that says how raw samples become inputs.
        provider: Execution provider for runs of the deployed model.
        threads: Threads inside an operator.
        device: Where torch trains.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        What training came to, and the files.
    """
    check_asked(
        epochs=epochs,
        minutes=minutes,
        lr=lr,
        batch_size=batch_size,
        loss=loss,
        augment=augment,
        bn=bn,
        device=device,
    )
    run = Folder(out, {})
    if resume:
        run.check()
    else:
        run.clear()
    model = as_model(model, example, data)
    original = load(model)
    samples = read_samples(with_fixed(original, recipe), data, preprocess)
    check_enough(samples)
    if loss == "labels":
        check_labels(samples.extras, original)
    verdict = Verdict.of(evaluation, metric, preprocess, provider, threads)
    if verdict is not None:
        verdict.begin(with_fixed(original, recipe))
    out.mkdir(parents=True, exist_ok=True)  # from here on there is a run to go on with
    qat = prepare(
        model,
        samples.spread(calibration_samples),
        recipe,
        target=target,
        provider=provider,
        threads=threads,
        progress=progress,
    )
    fitted = fit(
        qat,
        samples,
        verdict=None if verdict is None else verdict.of_run(qat.solution.original),
        epochs=epochs,
        minutes=minutes,
        lr=lr,
        batch_size=batch_size,
        loss=loss,
        augment=augment,
        seed=seed,
        bn=bn,
        float_too=float_too,
        device=device,
        folder=out,
        resume=resume,
    )
    files = fitted.result.save(out)
    if fitted.better:
        ir.save(fitted.result.float_model, out / TRAINED)
        files.append(out / TRAINED)
    return fitted, files
