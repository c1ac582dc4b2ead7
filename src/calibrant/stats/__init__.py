"""Statistics of tensors that merge: exact, in any order, with no range known beforehand.

TensorStats ─┬─ data: Histogram (bins are float bit patterns) or ExactValues (all of them)
             └─ by_channel: ChannelDistributions, one for each axis asked for
Accumulator      the same under way; arrays are added in place
"""

from calibrant.stats.exact import ExactValues
from calibrant.stats.histogram import Histogram
from calibrant.stats.per_channel import ChannelDistributions
from calibrant.stats.statistics import Statistics
from calibrant.stats.store import load_statistics, save_statistics
from calibrant.stats.tensor import Accumulator, TensorStats

__all__ = [
    "Accumulator",
    "ChannelDistributions",
    "ExactValues",
    "Histogram",
    "Statistics",
    "TensorStats",
    "load_statistics",
    "save_statistics",
]
