"""Changes to a model that leave what it computes equal, one a file. Passes edit in place."""
