"""Algorithms that choose the grid of an activation, one file each."""
