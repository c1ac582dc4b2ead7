"""Data: what it may come as, the checks it has to pass, and the batches it becomes."""
