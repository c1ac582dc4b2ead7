"""Images whose pixels do not fit 8 bits: depth, thermal and X-ray images, mostly grey.

| stored | values |
|---|---|
| grey, 16 bits (PNG, TIFF, PGM) | uint16 or int32, as stored |
| grey, 8 to 32 bits, signed (TIFF) | int8, int32 |
| grey, 32 bits (TIFF) | uint32, int32 or float32 |
| colour or grey with alpha, 16 bits a channel | refused: Pillow reads 8 of them |

Needs Pillow (the extra `images`).
"""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from calibrant.data.batch import AnyArray
from calibrant.errors import DataError

__all__ = ["wide_values"]

#: Pillow's modes of one channel whose values are no bytes.
WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

#: How Pillow names a file's pixels of several 16-bit channels; BGR;16 has 16 bits for all three.
_DEEP = re.compile(r"(?!BGR)[A-Za-z]+;16")

_SAMPLE_FORMAT, _SIGNED, _UNSIGNED = 339, 2, 1  # tag of TIFF, and two of its values
_PGM_FULL = 65535  # what Pillow spreads the range of a PGM file over


def wide_values(image: Image.Image, name: str) -> AnyArray | None:
    """Return the pixels (height, width) of a wide image as they are stored; None where 8 bits hold them.

    Args:
        image: An opened image, not yet loaded.
        name: Its name for messages.

    Raises:
        DataError: It has several channels of more than 8 bits each.
    """
    codec, stored, most = _stored(image)
    form = getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, (_UNSIGNED,))
    signs = set(form) if isinstance(form, tuple) else {form}
    if image.mode not in WIDE:
        if _DEEP.match(stored) or (codec == "ppm" and most > 255):
            raise DataError(
                f"{name} has 16 bits a channel (mode {image.mode}, stored as {stored}), of which 8 can be read. Store "
                "it with 8 bits a channel, or its pixels as a .npy array."
            )
        if image.mode == "L" and signs == {_SIGNED}:
            return np.asarray(image).view(np.int8)
        return None
    values = np.asarray(image)
    values = values.astype(values.dtype.newbyteorder("="))
    if codec == "ppm" and most not in (0, _PGM_FULL):
        return np.rint(values * (most / _PGM_FULL)).astype(np.int32)
    if image.mode == "I" and stored.startswith("I;32") and signs == {_UNSIGNED}:
        return values.view(np.uint32)
    return values


def _stored(image: Image.Image) -> tuple[str, str, int]:
    """Return what Pillow says of a file's pixels: codec, layout, and the largest value where it names one."""
    tile = getattr(image, "tile", None)
    if not tile:
        return "", "", 0
    codec, arguments = tile[0][0], tile[0][3]
    listed = arguments if isinstance(arguments, (tuple, list)) else (arguments,)
    most = listed[1] if len(listed) > 1 and isinstance(listed[1], int) else 0
    return str(codec), str(listed[0]) if listed else "", most
