"""The page of a run that is not a quantization: the network and the command beside its files, and the page of all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.errors import ConfigValueError

if TYPE_CHECKING:
    from calibrant.report.evidence import Network

__all__ = ["add_report", "check_report"]


def check_report(out: Path | None, *, report: bool) -> None:
    """Raise before the work begins where the page could not be written after it.

    Raises:
        ConfigValueError: There is no folder for it.
        MissingPackageError: A package that makes it is not installed.
    """
    from calibrant.report.page import check_packages

    if not report:
        return
    if out is None:
        raise ConfigValueError(
            "--report is given without --out, the folder that report.html is written into."
        )
    check_packages()


def add_report(out: Path, network: Network | None) -> list[Path]:
    """Write the page of a folder, and what it shows beyond the files that are there; return what was written.

    Args:
        out: The folder, with the results of this command and maybe of others.
        network: The network that the layers are of. One that a quantization left in the folder stays.
    """
    from calibrant.cli._called import called
    from calibrant.report.evidence import COMMANDS_FILE, GRAPH_FILE, Commands, text_of
    from calibrant.report.page import PAGE_FILE, page_of, read_run
    from calibrant.save.whole import write_whole

    before = read_run(out)
    commands = before.commands if before.commands is not None else Commands()
    texts = {COMMANDS_FILE: text_of(commands.with_line(called()))}
    if network is not None and (before.summary is None or before.network is None):
        texts[GRAPH_FILE] = text_of(network)
    for name, text in texts.items():
        write_whole(out / name, text)
    write_whole(out / PAGE_FILE, page_of(read_run(out)))
    return [out / name for name in (*texts, PAGE_FILE)]
