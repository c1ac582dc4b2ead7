"""What is to be looked at before quantization is blamed: the model, the data, and what no quantizer can carry."""

from calibrant.diagnose.triage.finding import Finding
from calibrant.diagnose.triage.masks import Mask, masks_of
from calibrant.diagnose.triage.run import triage

__all__ = ["Finding", "Mask", "masks_of", "triage"]
