"""Say what a quantization did to a person: in a few lines of text, or as HTML for a notebook.

Everything here reads the summary of a result (the content of `summary.json`) and nothing else.
"""

from calibrant.report.html import as_html
from calibrant.report.short import as_text

__all__ = ["as_html", "as_text"]
