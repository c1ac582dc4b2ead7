"""The calibration file of the older Ascend converter."""

from calibrant.dialects.ascend.cfg import DIALECT

DIALECTS = (DIALECT,)
