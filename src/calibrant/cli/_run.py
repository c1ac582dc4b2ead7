"""Run the command line, and turn every end of it into one sentence and an exit code.

  0  done
  1  another error of calibrant's own, or a value below a limit that was set
  2  the command line itself is wrong
  3  the model      4  the data       5  the recipe or an option
  6  not supported  7  not writable   8  a requirement is not met: the best that was found is written
  9  a package is missing
 70  a fault in calibrant (`--debug` shows where)
130  interrupted
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["INTERNAL", "INTERRUPTED", "run"]

#: EX_SOFTWARE of sysexits.h, and 128 + SIGINT of the shells.
INTERNAL = 70
INTERRUPTED = 130
BROKEN_PIPE = 141
FULL = 7


def run(argv: Sequence[str] | None = None) -> int:
    """Run `calibrant` with these arguments (those of the process if None) and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in args
    try:
        code = _run(args, as_json=as_json)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `calibrant … | head`: nobody is listening any more
        _let_go_of_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return _fail("interrupted.", "Interrupted", INTERRUPTED, as_json=as_json)
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        _let_go_of_stdout()
        text = "the output cannot be written: no space is left on the device."
        return _fail(text, "OutputError", FULL, as_json=False)


def _let_go_of_stdout() -> None:
    """Send what is left to nowhere, so that the end of the process does not fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(args: list[str], *, as_json: bool) -> int:
    import typer

    from calibrant.cli._app import command
    from calibrant.cli._called import set_called
    from calibrant.errors import CalibrantError

    debug = "--debug" in args or os.environ.get("CALIBRANT_DEBUG", "") not in ("", "0")
    set_called(args)
    _configure_log(verbose="-v" in args or "--verbose" in args)
    try:
        code = command().main(args=args, prog_name="calibrant", standalone_mode=False)
        if code != INTERRUPTED:  # what newer releases of typer return for Ctrl-C; older ones raise
            return code if isinstance(code, int) else 0
    except CalibrantError as e:
        if debug:
            raise
        parts = [str(part) for part in e.parts]
        return _fail(str(e), type(e).__name__, e.exit_code, as_json=as_json, parts=parts)
    except typer.Abort as e:
        raise KeyboardInterrupt from e
    except typer.Exit as e:
        if e.exit_code != INTERRUPTED:
            return int(e.exit_code)
    except BrokenPipeError:
        raise
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # what click and rich make of a closed pipe
            raise e.__context__ from None
        if e.code is None or isinstance(e.code, int):  # the completion of a shell ends so
            return e.code or 0
        raise
    except OSError as e:
        if e.errno == errno.ENOSPC:
            raise
        return _internal(e, debug=debug, as_json=as_json)
    except Exception as e:
        if _is_usage_error(e):
            return _fail(_usage(e), "UsageError", int(getattr(e, "exit_code", 2)), as_json=as_json)
        return _internal(e, debug=debug, as_json=as_json)
    raise KeyboardInterrupt


def _internal(e: Exception, *, debug: bool, as_json: bool) -> int:
    if debug:
        raise e
    text = " ".join(f"{type(e).__name__}: {e}".split())
    return _fail(
        f"an internal error, which should not happen ({text}); --debug shows where.",
        "InternalError",
        INTERNAL,
        as_json=as_json,
    )


def _configure_log(*, verbose: bool) -> None:
    """Show the library's log with -v; what matters without it stands in the summary."""
    log = logging.getLogger("calibrant")
    log.handlers.clear()
    if verbose:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.setLevel(logging.INFO)
    else:
        handler = logging.NullHandler()
        log.setLevel(logging.WARNING)
    log.addHandler(handler)


def _is_usage_error(e: Exception) -> bool:
    """Tell click's errors, which typer keeps under its own name in one release and not in another."""
    return hasattr(e, "format_message") and hasattr(e, "exit_code")


def _usage(e: Any) -> str:
    text = " ".join(str(e.format_message()).split())
    text = text if text.endswith((".", "?")) else f"{text}."
    context = getattr(e, "ctx", None)
    path = context.command_path if context is not None else "calibrant"
    return f"{text} '{path} --help' lists what there is."


def _fail(text: str, kind: str, code: int, *, as_json: bool, parts: Sequence[str] = ()) -> int:
    """Write an error, one line for each that it is made of; as JSON, one object."""
    sentences = [" ".join(part.split()) for part in parts or (text,)]
    with contextlib.suppress(
        OSError
    ):  # stderr is full or closed: the exit code is all that is left
        for sentence in sentences:
            sys.stderr.write(f"calibrant: error: {sentence}\n")
    if as_json:
        message = " ".join(text.split())
        error: dict[str, Any] = {"type": kind, "message": message, "exit_code": code}
        if parts:
            error["errors"] = sentences
        sys.stdout.write(json.dumps({"error": error}, ensure_ascii=False) + "\n")
    return code
