"""Decide what a recipe leaves to measurement: build candidates, measure them, take the better one."""
