"""Images as samples: decode, colour, resize, crop. Needs Pillow (the extra `images`).

Resizing to a short side keeps the aspect ratio, the long side rounded down; cropping takes the centre,
its corner rounded to the nearest pixel. Both are the rules of torchvision's `Resize` and `CenterCrop`.

Colour images, and grey ones of up to 8 bits, are uint8. Grey images of more bits, signed or floating point ones
(`data.wide_images`) keep the values that they are stored with, for the preprocessing to scale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from calibrant.data.batch import AnyArray
from calibrant.data.preprocess import Steps
from calibrant.data.wide_images import wide_values
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
    """Decode one image, (height, width, channels): uint8, or the values of a wide image as they are stored.

    Raises:
        DataError: The file is no image, is damaged, or has colours of more than 8 bits.
        ConfigValueError: The image is smaller than the crop.
    """
    try:
        with Image.open(path) as image:
            values = wide_values(image, name)
            picture = None if values is not None else _in_colour(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise DataError(f"{name} cannot be read as an image: {e}.") from e
    if picture is not None:
        return _transform(picture, steps, name)
    assert values is not None
    return _transform_wide(values, steps, name)


def _in_colour(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB; what is transparent loses that alone."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _transform_wide(values: AnyArray, steps: Steps, where: str) -> AnyArray:
    """Resize and crop grey values (height, width); with `color: RGB` each channel has them."""
    if steps.resize is not None:
        picture = Image.fromarray(values.astype(np.float32))
        resized = picture.resize(_resized(picture, steps.resize), _FILTERS[steps.interpolation])
        exact = steps.interpolation == "nearest"  # no value is between two others
        values = np.asarray(resized).astype(values.dtype if exact else np.float32)
    pixels = np.repeat(values[:, :, np.newaxis], 1 if steps.color == "gray" else 3, axis=2)
    return pixels if steps.crop is None else _cropped(pixels, steps.crop, where)


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
