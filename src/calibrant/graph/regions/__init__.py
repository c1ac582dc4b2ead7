"""What a tensor is put together from: blocks of it that different layers, or different functions, fill."""

from calibrant.graph.regions.layout import Layout, Range, Region, Role
from calibrant.graph.regions.trace import layout_of

__all__ = ["Layout", "Range", "Region", "Role", "layout_of"]
