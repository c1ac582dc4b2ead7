"""Moves that keep what a model costs: what else a recipe could say, tried without labels before any layer is raised."""

from calibrant.tuner.moves.road import Moves, find_moves
from calibrant.tuner.moves.tried import KINDS, TRAINING, MoveTried, kinds_of

__all__ = ["KINDS", "TRAINING", "MoveTried", "Moves", "find_moves", "kinds_of"]
