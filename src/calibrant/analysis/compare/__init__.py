"""Compare two models layer by layer: which layer is which, what each is off by, and a report."""

from calibrant.analysis.compare.report import LayerRow, OutputRow, PartRow, Report
from calibrant.analysis.compare.run import compare

__all__ = ["LayerRow", "OutputRow", "PartRow", "Report", "compare"]
