"""An image data set: one sub-folder a class.

    flowers/daisy/0.jpg …      label 0
    flowers/rose/0.jpg …       label 1

Labels count the sub-folders in the order of their names, sign by sign (`10` before `2`), as torchvision's
`ImageFolder` does. Samples take turns between the classes, so that the first ones are of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from calibrant.errors import DataError, did_you_mean

__all__ = ["class_samples"]


def class_samples(
    folders: Sequence[Path],
    suffixes: Sequence[str],
    in_order: Callable[[Iterable[Path]], list[Path]],
    name: str,
) -> list[tuple[Path, int]]:
    """Return the images of a data set with their labels; empty where sub-folders are no classes.

    Args:
        folders: The sub-folders.
        suffixes: What the names of images end with.
        in_order: Sorts files.
        name: Name of the model's input: a single sub-folder whose name is near to it is a mistake, and no class.

    Raises:
        DataError: Some sub-folders hold images and another one does not, so it is not known what labels mean.
    """
    found = {
        p: in_order(f for f in p.iterdir() if f.suffix.lower() in suffixes)
        for p in sorted(folders, key=lambda p: p.name)
    }
    if not any(found.values()):
        return []
    if len(found) == 1 and did_you_mean(name, [folders[0].name]):
        return []
    for folder, files in found.items():
        if not files:
            raise DataError(
                f"{folder} holds no images, and sub-folders beside it do: each sub-folder is a class. Take it out, or "
                "put its images in."
            )
    rounds = zip_longest(*([(f, k) for f in files] for k, files in enumerate(found.values())))
    return [sample for each in rounds for sample in each if sample is not None]
