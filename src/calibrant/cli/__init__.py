"""The command line: thin, one file a command. What takes time to import is imported when it is used."""

from calibrant.cli._run import main

__all__ = ["main"]
