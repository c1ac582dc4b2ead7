"""Passes that measure the quantized model to improve its parameters, one a file."""
