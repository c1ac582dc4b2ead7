"""The description of the package on an index: README.md without links that lead nowhere there.

README links pages of the repository by their place in it. An index shows README alone, so there such a link is its
text. Once the project has an address, `project.urls` in pyproject.toml names it as `Source`, and links lead to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)\s]+)\)")


def described(text: str, source: str | None) -> str:
    """Return a README as an index shows it: links into the repository are absolute, or text."""
    return LINK.sub(rf"[\1]({source.rstrip('/')}/\2)" if source else r"\1", text)


class Description(MetadataHookInterface):
    """Fill in `readme`."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description; called by hatchling when it builds."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": described(text, source)}
