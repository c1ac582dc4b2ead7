"""Functions under the names that the vendors' own tools have."""
