"""ONNX Runtime and data: the only place that runs a model."""
