"""Draw a network as layers of nodes from left to right, folded into lines like a text, so that it fits a page.

    ranks    which column a node stands in: one behind all that it reads
    order    who stands above whom in a column, with few crossings
    place    how high, so that chains are straight
    fold     columns into lines

Source: Sugiyama, Tagawa, Toda, "Methods for Visual Understanding of Hierarchical System Structures", IEEE Transactions on
Systems, Man, and Cybernetics 11(2), 1981; the folding is our own.
"""

from calibrant.report.page.layout.drawing import NARROW, WIDE, Drawing, draw

__all__ = ["NARROW", "WIDE", "Drawing", "draw"]
