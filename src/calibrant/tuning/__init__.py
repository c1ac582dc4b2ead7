"""Decide what a recipe leaves open, by building candidates and measuring them."""
