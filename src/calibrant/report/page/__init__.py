"""A run folder as one HTML page that opens anywhere: no server, no network, nothing beside it.

    run          the files of a folder, as typed values
    sections     what the page says, one file a section; each reads what it shows and says None where that is not there
    layout       the network as a drawing
    templates, assets      how it looks

Plotly and Jinja are the extra `report`; they are imported when a page is made.
"""

from calibrant.report.page.make import (
    PAGE_FILE,
    SIDE_BY_SIDE_FILE,
    check_packages,
    page_of,
    page_of_pair,
)
from calibrant.report.page.run import Run, read_run

__all__ = [
    "PAGE_FILE",
    "SIDE_BY_SIDE_FILE",
    "Run",
    "check_packages",
    "page_of",
    "page_of_pair",
    "read_run",
]
