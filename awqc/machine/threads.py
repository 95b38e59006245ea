"""Use cores for many small pieces of work, one thread each.

torch shares each single operation among all cores, which for small tensors costs more than
it gives. Work that comes in independent pieces runs one piece a core instead; every piece
is computed by one thread, so that results do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def single_threaded() -> Iterator[None]:
    """Within the block, each torch operation of this thread uses one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def parallel_map(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Results of ``function`` for ``items``, in order, computed by one thread a core."""
    workers = min(torch.get_num_threads(), len(items))
    with single_threaded():
        if workers <= 1:
            yield from map(function, items)
            return
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)
