"""Modules that scripts import by the toolkit's own paths."""
