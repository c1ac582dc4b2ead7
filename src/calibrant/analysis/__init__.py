"""Say how good a quantized model is, and where its accuracy goes."""
