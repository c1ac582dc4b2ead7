"""Images as samples: decode, colour, resize, crop. Needs Pillow (the extra `images`).

Resizing to a short side keeps the aspect ratio, the long side rounded down; cropping takes the centre,
its corner rounded to the nearest pixel. Both are the rules of torchvision's `Resize` and `CenterCrop`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from calibrant.data.batch import AnyArray
from calibrant.data.preprocess import Steps
from calibrant.errors import ConfigValueError, DataError

__all__ = ["read_image", "transform_array"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def read_image(path: Path, steps: Steps, name: str) -> AnyArray:
    """Decode one image, (height, width, channels) uint8.

    Raises:
        DataError: The file is no image, or is damaged.
        ConfigValueError: The image is smaller than the crop.
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise DataError(f"{name} cannot be read as an image: {e}.") from e
    return _transform(picture, steps, name)


def transform_array(image: AnyArray, steps: Steps, where: str) -> AnyArray:
    """Do the same with an image that is decoded already, (height, width, 1 or 3) uint8."""
    if image.shape[2] not in (1, 3):
        raise DataError(f"{where}: an image has 1 or 3 channels, got {image.shape[2]}.")
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return _transform(picture.convert("RGB"), steps, where)


def _transform(image: Image.Image, steps: Steps, where: str) -> AnyArray:
    if steps.color == "gray":
        image = image.convert("L")
    if steps.resize is not None:
        image = image.resize(_resized(image, steps.resize), _FILTERS[steps.interpolation])
    pixels = np.asarray(image)  # (height, width) or (height, width, 3)
    pixels = pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels
    if steps.color == "BGR":
        pixels = pixels[:, :, ::-1]
    return pixels if steps.crop is None else _cropped(pixels, steps.crop, where)


def _resized(image: Image.Image, size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the new (width, height)."""
    if isinstance(size, tuple):
        return size[1], size[0]
    short, long = sorted(image.size)
    other = int(size * long / short)
    return (size, other) if image.width <= image.height else (other, size)


def _cropped(pixels: AnyArray, size: int | tuple[int, int], where: str) -> AnyArray:
    height, width = size if isinstance(size, tuple) else (size, size)
    if pixels.shape[0] < height or pixels.shape[1] < width:
        raise ConfigValueError(
            f"{where}: crop {height} x {width} is larger than the image, "
            f"{pixels.shape[0]} x {pixels.shape[1]} after resizing."
        )
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]
