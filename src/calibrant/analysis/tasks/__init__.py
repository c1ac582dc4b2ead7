"""Task metrics by name: how good a model's outputs are against references, one file for each kind of task."""
