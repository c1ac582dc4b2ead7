"""calibrant: quantize a trained network so that it still meets its accuracy requirement."""
