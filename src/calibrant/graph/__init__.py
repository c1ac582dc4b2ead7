"""Models as graphs (onnx-ir): reading, operators, places of quantizers, targets and passes."""
