"""Find out where a network loses its accuracy."""

from calibrant.diagnose.advice import Advice, Step, advise
from calibrant.diagnose.attribute import Attribution, LayerOrigin, attribution
from calibrant.diagnose.origins import Origin
from calibrant.diagnose.rank import sensitivity
from calibrant.diagnose.ranking import LayerLoss, Ranking

__all__ = [
    "Advice",
    "Attribution",
    "LayerLoss",
    "LayerOrigin",
    "Origin",
    "Ranking",
    "Step",
    "advise",
    "attribution",
    "sensitivity",
]
