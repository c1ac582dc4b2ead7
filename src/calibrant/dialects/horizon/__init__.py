"""Horizon's `quant_config`, as JSON and as the YAML of the old chain."""

from calibrant.dialects.horizon.quant_config import DIALECT

DIALECTS = (DIALECT,)
