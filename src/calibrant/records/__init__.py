"""Build a quantized model again from the float model and its parameter record, without data."""

from calibrant.records.read import Entry, Record, read_record
from calibrant.records.rebuild import quantize_from_record

__all__ = ["Entry", "Record", "quantize_from_record", "read_record"]
