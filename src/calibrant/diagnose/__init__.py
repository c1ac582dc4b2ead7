"""Find out where a network loses its accuracy."""

from calibrant.diagnose.rank import sensitivity
from calibrant.diagnose.ranking import LayerLoss, Ranking

__all__ = ["LayerLoss", "Ranking", "sensitivity"]
