"""The road from a float model and data to a quantized model.

    Recipe + model + data → Bench → Solution → build → measure → QuantizedModel

What a recipe leaves open is decided on the bench by trying it (`tuning`); a model that keeps the scales it was
trained with takes a road of its own (`tuning.lifted`). Both end in a Solution, and so does a record (`rebuild`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibrant.analysis.fidelity import look_at_nodes
from calibrant.analysis.probe import Probe
from calibrant.analysis.quality import quality_of
from calibrant.dialects.asked import RecipeLike, asked
from calibrant.findings import Findings
from calibrant.graph.load import ModelLike
from calibrant.graph.modules import as_model
from calibrant.plan.loaded import keeps_scales
from calibrant.progress import Callback, Progress
from calibrant.results import QuantizedModel, result_of
from calibrant.runtime.measure import Outputs, measure_latency
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.session import in_one_piece
from calibrant.runtime.workers import workers_of
from calibrant.solution import Built, Solution, build
from calibrant.stats import Statistics
from calibrant.tuning.extent import measured_feeds
from calibrant.tuning.integer_outputs import cost_of_integer_outputs
from calibrant.tuning.left_in_float import solve_or_leave
from calibrant.tuning.lifted import lifted
from calibrant.tuning.road import statistics_of
from calibrant.tuning.store import Store
from calibrant.tuning.unseen import unseen_outputs

__all__ = ["finished", "observe", "quantize"]

#: Latencies are measured until their medians are this near, or for so many seconds, and in so many runs at the least.
STEADY, TIMED, RUNS = 0.02, 0.05, 3


def quantize(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike | None = None,
    *,
    example: Any = None,
    target: str | Path | None = None,
    fix: Mapping[str, Any] | None = None,
    keep_fixed_inputs: bool = False,
    provider: str = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
    batch_num: int | None = None,
    preprocess: str | Path | None = None,
    progress: Callback | None = None,
    per_node: bool = False,
    latency: bool = True,
    jobs: int | None = None,
    ray: str | None = None,
) -> QuantizedModel:
    """Quantize a float model.

    Args:
        model: Path of an ONNX file, an `onnx.ModelProto`, an `onnx_ir.Model`, or a module of torch, which is exported: its
            nodes have the names of your modules. It is not changed.
        data: Calibration data: a path, a dict of arrays by input name, or any iterable of feeds. None where
            nothing is calibrated: the recipe keeps the scales that the model has.
        recipe: What is wanted: a path, a text, a mapping (all in any dialect) or a Recipe; None for the
            defaults.
        example: What a module of torch is called with: a tensor, a sequence of tensors, or a mapping by argument. None
            takes it from data that has arrays by the names of its arguments.
        target: What the model will run on, a name or a file of your own; over the recipe's.
        fix: Inputs of the model that are the same in every use, such as `{"sr": 16000}`: they become constants,
            what depends on them is computed beforehand, and an If that they decide gives way to its branch. A value
            is a number, a flag, a text, or a list or array of these; over the recipe's.
        keep_fixed_inputs: The written models keep these inputs, and do not read them.
        provider: Execution provider for every run of a model.
        threads: Threads inside an operator; None takes one where layers are small, else what ONNX Runtime takes.
        batch_size: Samples in a batch; over the recipe's.
        batch_num: Batches to use; over the recipe's.
        preprocess: File that says how raw samples become inputs.
        progress: Called with a stage, what is done of it, and how much there is.
        per_node: Compare every node with the float model's, on the first sample, and the outputs sample by
            sample: `summary["nodes"]` and `summary["distances"]`.
        latency: Time one inference of both models, in turn, for under a second (`summary["latency"]`).
        jobs: Processes that look at the data, each at a part of it; the result is the same. For data that can be read by
            index: files, folders, arrays.
        ray: Address of a Ray cluster whose workers do that, or `local`; they see the same files.

    Raises:
        ModelError: The model cannot be read, checked or quantized.
        DataError: The data is empty, does not fit the inputs, or is not finite.
        ConfigError: The recipe names what the model does not have, or asks for what does not exist.
    """
    model = as_model(model, example, data)
    wanted = asked(recipe, target, fix, keep_fixed_inputs=keep_fixed_inputs)
    runtime = Runtime(provider, threads)
    store = Store(
        model,
        data,
        runtime=runtime,
        batch_size=batch_size,
        batch_num=batch_num,
        preprocess=preprocess,
        progress=Progress(progress),
        workers=workers_of(jobs, ray),
    )
    start = time.perf_counter()
    if keeps_scales(wanted):
        solved = lifted(store, wanted)
        unseen = unseen_outputs(solved, store.known)
    else:
        solved, unseen = solve_or_leave(store, wanted)
    solution, findings, probe = solved.solution, solved.findings, solved.probe
    if not solution.random:
        findings = replace(
            findings, integer_outputs=cost_of_integer_outputs(solved, wanted, store)
        )
    statistics, said = solved.statistics, store.progress
    if solved.simulator is not None:
        solved.simulator.close()
    del solved, store  # forms, weights and sessions that were tried
    return finished(
        model,
        solution,
        findings,
        probe,
        said,
        runtime,
        statistics=statistics,
        per_node=per_node,
        latency=latency,
        unseen=unseen,
        start=start,
    )


def finished(
    source: ModelLike,
    solution: Solution,
    findings: Findings,
    probe: Probe | None,
    progress: Progress,
    runtime: Runtime,
    *,
    statistics: Statistics | None = None,
    per_node: bool = False,
    latency: bool = True,
    unseen: Outputs | None = None,
    start: float,
) -> QuantizedModel:
    """Build the models of a solution and measure them.

    Args:
        source: The model as it was given.
        solution: What was decided.
        findings: What was found on the way.
        probe: Samples to measure on; None for no measurement.
        progress: Told what is going on.
        runtime: Where models run.
        statistics: What was seen of each tensor.
        per_node: Compare every node with the float model's.
        latency: Time one inference of both models.
        unseen: Outputs for the first feeds of the probe, with ranges that do not come from them.
        start: When the work began, by `time.perf_counter`.
    """
    with progress.stage("emit"):
        built = build(solution)
    with progress.stage("measure"):
        findings = _measured(
            solution,
            built,
            findings,
            probe,
            runtime,
            per_node=per_node,
            latency=latency,
            unseen=unseen or [],
        )
    seconds = {**progress.seconds, "total": time.perf_counter() - start}
    findings = replace(findings, seconds=seconds)
    return result_of(source, solution, findings, built=built, statistics=statistics)


def _measured(
    solution: Solution,
    built: Built,
    findings: Findings,
    probe: Probe | None,
    runtime: Runtime,
    *,
    per_node: bool,
    latency: bool,
    unseen: Outputs,
) -> Findings:
    if per_node:
        parts = solution.model, built.deploy, solution.plan, solution.params
        nodes, distances = look_at_nodes(*parts, probe, runtime)
        findings = replace(findings, nodes=nodes, distances=distances)
    if probe is None:
        return findings
    few = probe.head(measured_feeds(solution.model, solution.plan, probe))
    written = in_one_piece(built.deploy)
    quality = quality_of(built.deploy, few, runtime, unseen=unseen, written=written)
    findings = replace(findings, quality=quality)
    if latency:
        taken = measure_latency(
            solution.model,
            written,
            probe.first,
            runtime=runtime,
            seconds=TIMED,
            least_runs=RUNS,
            steady=STEADY,
        )
        findings = replace(findings, latency=taken)
    return findings


def observe(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike | None = None,
    *,
    example: Any = None,
    target: str | Path | None = None,
    fix: Mapping[str, Any] | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
    batch_num: int | None = None,
    preprocess: str | Path | None = None,
    progress: Callback | None = None,
    jobs: int | None = None,
    ray: str | None = None,
) -> Statistics:
    """Return the statistics of every tensor that the recipe quantizes, from one pass over the data.

    Arguments and errors are those of `quantize`. Statistics of parts of the data merge to those of the
    whole, bit for bit; those of different models do not merge (their digests differ).
    """
    store = Store(
        as_model(model, example, data),
        data,
        runtime=Runtime(provider, threads),
        batch_size=batch_size,
        batch_num=batch_num,
        preprocess=preprocess,
        progress=Progress(progress),
        workers=workers_of(jobs, ray),
    )
    return statistics_of(store, asked(recipe, target, fix))
