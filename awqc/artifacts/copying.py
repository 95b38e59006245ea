"""Copy the files of a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def copy_tree(
    source: Path, target: Path, ignore: Callable[[str, list[str]], Iterable[str]] | None = None
) -> None:
    """Copy what is in ``source`` into ``target``, a folder that may be there.

    Args:
        source: a folder.
        target: where its content is to be.
        ignore: as of `shutil.copytree`, which goes on after a failure and then tells a list of all.

    Raises:
        OSError: of the first file that cannot be copied.
    """
    names = os.listdir(source)
    ignored = () if ignore is None else ignore(str(source), names)
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted(set(names).difference(ignored)):
        if (source / name).is_dir():
            copy_tree(source / name, target / name, ignore)
        else:
            shutil.copy2(source / name, target / name)
