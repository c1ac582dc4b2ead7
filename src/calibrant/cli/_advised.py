"""Advice, for people; and a step of it carried out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrant.cli._tables import console, escaped, table
from calibrant.errors import ConfigValueError

if TYPE_CHECKING:
    from calibrant.diagnose import Advice
    from calibrant.graph.load import ModelLike

__all__ = ["applied", "print_advice"]

#: Steps and places that are shown without `--verbose`.
_SHOWN, _PLACES = 5, 5

#: File of the recipe that a step was applied with.
RECIPE = "recipe.yaml"


def applied(
    advice: Advice, number: int, out: Path, *, model: ModelLike, data: Any, **how: Any
) -> list[Path]:
    """Quantize with a step, and write the model and its recipe.

    Args:
        advice: What was found.
        number: Which step, from 1.
        out: Folder.
        model: The float model.
        data: Calibration data.
        how: Other arguments of `calibrant.quantize`.

    Raises:
        ConfigValueError: There is no such step, or it is one that no recipe does.
    """
    from calibrant.pipeline import quantize
    from calibrant.save.whole import write_whole

    if number > len(advice.steps):
        count = len(advice.steps)
        raise ConfigValueError(
            f"There is no step {number}: {count} {'was' if count == 1 else 'were'} found."
        )
    step = advice.steps[number - 1]
    if step.move == "data":
        raise ConfigValueError(
            f"Step {number} is about the calibration data, which no recipe mends. Mend the data, and quantize again."
        )
    files = quantize(model, data, recipe=step.recipe, **how).save(out)
    write_whole(out / RECIPE, step.recipe)
    return [*files, out / RECIPE]


def print_advice(advice: Advice, files: Sequence[Path], *, verbose: bool) -> None:
    """Write what was found, and what to do.

    Args:
        advice: What was found.
        files: What was written.
        verbose: Show all steps with their recipes.
    """
    out = console()
    parts = ", ".join(f"{escaped(n)} {db:.1f}" for n, db in advice.parts.items())
    out.print(
        f"[bold]{escaped(advice.model)}[/bold] for {escaped(advice.target)}: {advice.score_db:.1f} dB on {advice.samples} "
        f"samples ({parts})"
    )
    for name, value in advice.metric.items():
        out.print(f"Task metric, {name}: {value:.6g}")
    for finding in advice.findings:
        where = f" ({', '.join(map(escaped, finding.where[:3]))})" if finding.where else ""
        out.print(
            f"\n[bold]{finding.word.capitalize()}[/bold] ({finding.confidence:.0%}): {escaped(finding.saw)}{where}"
        )
        out.print(f"  {escaped(finding.do)}")
        if finding.preprocess:
            out.print(
                escaped("".join(f"    {line}\n" for line in finding.preprocess.splitlines())),
                end="",
            )
    if advice.culprits:
        places = table(
            "place", "cause", "of all losses", "alone, dB", title="\nWhere the outputs lose most"
        )
        for c in advice.culprits if verbose else advice.culprits[:_PLACES]:
            name = f"{c.layers[0]}, {'weight' if c.kind == 'weight' else c.tensor}"
            places.add_row(escaped(name), c.cause, f"{c.share:.0%}", f"{c.loss_db:.1f}")
        out.print(places)
    if not advice.steps:
        out.print("\nNo step that was tried gains anything.")
    shown = advice.steps if verbose else advice.steps[:_SHOWN]
    for i, step in enumerate(shown, 1):
        reached = f", then {step.score_db:.1f} dB"
        metric = f", task metric {step.metric:.6g}" if step.metric is not None else ""
        out.print(f"\n[bold]{i}. {escaped(step.what)}[/bold]{reached}{metric}")
        if step.costs:
            out.print(f"   costs: {step.costs}")
        if step.evidence:
            out.print(f"   {escaped(step.evidence)}")
        lines = [x for x in step.rules.splitlines() if x and not x.startswith("calibrant:")]
        if step.move != "data" and (verbose or len(lines) <= _LINES):
            out.print(escaped("\n".join(f"     {line}" for line in lines)))
        elif step.move != "data":
            out.print(f"   {len(lines)} lines of recipe (-v shows them)")
    if len(advice.steps) > len(shown):
        out.print(f"\n{len(advice.steps) - len(shown)} more steps (-v shows them).")
    if advice.answer:
        out.print(f"\n[bold]What to do now:[/bold] {escaped(advice.answer)}")
    if advice.command:
        out.print(
            f"  The cheapest model that reaches 20 dB, by a search: {escaped(advice.command)}"
        )
    if advice.steps and not files:
        out.print("\nTry a step: --apply N --out DIR.")
    for note in advice.notes:
        out.print(f"Note: {escaped(note)}")
    if files:
        out.print(f"Written: {', '.join(escaped(f.name) for f in files)}")


#: Lines of a recipe that are shown without `--verbose`.
_LINES = 14
