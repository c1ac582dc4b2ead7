"""Algorithms that choose the grid of a weight, one file each."""
