"""Preprocessing steps applied: decoded images and stored arrays become input samples."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from calibrant.data.batch import AnyArray, InputInfo
from calibrant.data.preprocess import Layout, Steps, check_fits, layout_of
from calibrant.errors import ConfigValueError, MissingPackageError

__all__ = ["finish_arrays", "finish_images", "images_module", "stored_shape"]


def finish_images(x: AnyArray, steps: Steps, info: InputInfo) -> AnyArray:
    """Turn decoded and cropped images, (samples, height, width, channels), into input samples.

    With an axis of feeds in front, each feed is finished by itself.
    """
    if info.by_feed:
        return np.stack([finish_images(feed, steps, info.own) for feed in x])
    layout = steps.layout or layout_of(info)
    dtype = np.dtype(steps.dtype) if steps.dtype is not None else info.dtype
    if x.dtype != np.uint8 and dtype.kind in "iu" and not steps.scales:
        check_fits(x, dtype, info)
    return steps.numbers(x, info, source_layout="NHWC", layout=layout)


def finish_arrays(x: AnyArray, steps: Steps, info: InputInfo) -> AnyArray:
    """Turn stored arrays, (samples, …), into input samples.

    Resizing, cropping and colour need images: uint8 arrays (samples, height, width, channels).

    Raises:
        ConfigValueError: Image steps on an array that is no image.
        MissingPackageError: Image steps without Pillow.
    """
    if info.by_feed:
        return np.stack([finish_arrays(feed, steps, info.own) for feed in x])
    source_layout: Layout = steps.source_layout or steps.layout or layout_of(info)
    if steps.works_on_images:
        if x.dtype != np.uint8 or x.ndim != 4 or source_layout != "NHWC":
            raise ConfigValueError(
                f"preprocessing of input '{info.name}': resize, crop and color need images, uint8 "
                f"arrays with source_layout NHWC; got {x.dtype} of {x.ndim} dimensions in {source_layout}."
            )
        transform_array = images_module().transform_array
        images = [transform_array(image, steps, f"input '{info.name}'") for image in x]
        return finish_images(np.stack(images), steps, info)
    layout = steps.layout or (layout_of(info) if steps.source_layout else source_layout)
    return steps.numbers(x, info, source_layout=source_layout, layout=layout)


def stored_shape(steps: Steps, info: InputInfo) -> tuple[int | str | None, ...]:
    """Return the shape of one sample before `finish_arrays` moves its channels."""
    dims = info.dims[1:]
    if info.by_feed:
        return dims
    layout = steps.layout or layout_of(info)
    if len(dims) != 3 or steps.source_layout in (None, layout):
        return dims
    a, b, c = dims
    return (b, c, a) if layout == "NCHW" else (c, a, b)


def images_module() -> ModuleType:
    """Import `data.images`.

    Raises:
        MissingPackageError: Pillow is not installed.
    """
    try:
        from calibrant.data import images
    except ImportError as e:
        raise MissingPackageError(
            "Images as data ask for the package pillow, which is not installed: "
            'pip install "calibrant[images]".'
        ) from e
    return images
