"""The parameter record: reading, checking and writing it."""
