"""What a run leaves for its report beside its results: one typed value a file, as JSON.

graph.json           the network: nodes and the tensors between them          (`Network`)
distributions.json   values and weights: histograms, ranges, channels         (`Distributions`)
commands.json        what was called                                          (`Commands`)
"""

from calibrant.report.evidence.commands import COMMANDS_FILE, Commands
from calibrant.report.evidence.distributions import Distributions, TensorSeen, WeightSeen
from calibrant.report.evidence.files import read_value, text_of
from calibrant.report.evidence.network import GRAPH_FILE, Network, NetworkNode, network_of

__all__ = [
    "COMMANDS_FILE",
    "GRAPH_FILE",
    "Commands",
    "Distributions",
    "Network",
    "NetworkNode",
    "TensorSeen",
    "WeightSeen",
    "network_of",
    "read_value",
    "text_of",
]
