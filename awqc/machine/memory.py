"""Giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
import sys
import weakref
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from awqc.errors import CaptureError
from awqc.machine.mapped_file import MappedFile


def release() -> None:
    """Free cycles that nobody refers to, and hand whole free pages back."""
    gc.collect()
    trim()


def release_behind(nbytes: int) -> None:
    """What `release` does, behind work on tensors of so many bytes, if it is worth its time.

    It looks at every object of the process: that takes some tenths of a second whatever it frees.
    """
    if nbytes >= LARGE:
        release()


def map_private(file: BinaryIO, offset: int, length: int) -> memoryview:
    """``length`` bytes of a file from ``offset``, read when touched; changes stay in memory.

    The file may be closed afterwards; see `check_mapped_files`.
    """
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(
        file.fileno(), offset - start + length, access=mmap.ACCESS_COPY, offset=start
    )
    _MAPS[mapped] = MappedFile.of(file)
    _pages_that_came()  # what went with other maps before no longer counts
    return memoryview(mapped)[offset - start :]


def check_mapped_files() -> None:
    """Refuse to go on where a file that is mapped was written to: what is read may be anything.

    Raises:
        CaptureError: one was.
    """
    if any(origin.changed() for origin in _MAPS.values()):
        gc.collect()  # What nobody reads any more does not count.
    changed = {mapped: origin for mapped, origin in _MAPS.items() if origin.changed()}
    for mapped in changed:  # Told once: what is compiled next may not read it.
        del _MAPS[mapped]
    if found := sorted({str(origin.path) for origin in changed.values()}):
        raise CaptureError(
            f"{', '.join(found)}: was written to while it was read; start again when the files of "
            "the model stay as they are"
        )


def give_back() -> None:
    """What `trim` does, and the pages of mapped files, which are read anew when touched.

    Files of which a page was changed in memory stay as they are, and all where few pages came
    since the last time: to ask the system which were changed takes milliseconds. Linux only.
    """
    trim()
    if sum(map(len, list(_MAPS))) >= LARGE and _pages_that_came() >= LARGE:
        forget(unchanged_maps())


def _pages_that_came() -> int:
    """Bytes of files that came into memory since they were forgotten, or since fewer were there."""
    now = _file_pages()
    _LEFT[0] = min(_LEFT[0], now)
    return now - _LEFT[0]


def unchanged_maps() -> list[mmap.mmap]:
    """The files of `map_private` of which no page was changed in memory; none but on Linux."""
    if sys.platform != "linux" or not _MAPS:
        return []
    changed = _changed_areas()
    ends = [end for _, end in changed]
    found = []
    for mapped in list(_MAPS):
        first = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        behind = bisect_right(ends, first)  # the first area that ends behind it
        if behind == len(ends) or changed[behind][0] >= first + len(mapped):
            found.append(mapped)
    return found


def forget(maps: Iterable[mmap.mmap]) -> None:
    """Let the pages of ``maps`` leave memory; what was changed in them would be lost."""
    if sys.platform == "linux":
        for mapped in maps:
            mapped.madvise(mmap.MADV_DONTNEED)
        _LEFT[0] = _file_pages()


def _file_pages() -> int:
    """Bytes of files that are in the process's memory, code included; 0 but on Linux.

    Source: proc_pid_statm(5).
    """
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE


def _changed_areas() -> list[tuple[int, int]]:
    """Addresses of the process's memory areas that hold pages which no file holds, in order.

    Source: proc_pid_smaps(5).
    """
    found = _AREA.findall(Path("/proc/self/smaps").read_text())
    return [(int(start, 16), int(end, 16)) for start, end, pages in found if pages != "0"]


def trim() -> None:
    """Hand whole free pages back to the system, where glibc manages memory.

    glibc keeps freed memory for later use: hundreds of megabytes after large temporaries, and
    more where small blocks that stay lie between them.
    """
    if _TRIM is not None:
        _TRIM(0)


LARGE = 2**25
"""Bytes from which on it is worth a search what of them may go."""
_AREA = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (?:.*\n)+?Anonymous: +(\d+)", re.MULTILINE)
"""Where a memory area begins and ends, and what of it no file holds."""
_MAPS: weakref.WeakKeyDictionary[mmap.mmap, MappedFile] = weakref.WeakKeyDictionary()
_LEFT = [0]
"""`_file_pages` when `forget` was called last."""
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
