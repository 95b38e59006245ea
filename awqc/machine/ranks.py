"""Several processes that work on one compile: which one this is, and what they tell each other.

``torchrun`` starts them and says in the environment who is who; torch.distributed connects them.
One process alone is one rank, and tells nobody anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from awqc.errors import RankError, spelled
from awqc.machine.launched import ranks_here

T = TypeVar("T")
PATIENCE = 600
"""Seconds that a rank waits for another."""


@dataclass(frozen=True)
class Ranks:
    """The processes of one compile.

    Attributes:
        index: of this process, from 0; that one writes.
        count: of all.
    """

    index: int = 0
    count: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """What this process does of ``items``: every ``count``-th."""
        return items[self.index :: self.count]

    def total(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over all ranks, each of which gives one of the same shape."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def largest(self, value: Tensor) -> Tensor:
        """The largest, element by element."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def _reduced(self, value: Tensor, how: Any) -> Tensor:
        if self.count > 1:
            with _told():
                dist.all_reduce(value, op=how)
        return value

    def gather(self, value: T) -> list[T]:
        """What each rank gives, in their order. Values are pickled: own processes are trusted."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with _told():
            dist.all_gather_object(found, value)
        return found

    def each(
        self, work: Callable[[Sequence[T]], Iterator[Any]], items: Sequence[T]
    ) -> Iterator[Any]:
        """Results of ``work`` for all ``items``, in order; each is made by one rank.

        Raises:
            RankError: another rank could not make one; an own failure is raised as it is.
        """
        if self.count == 1:
            yield from work(items)
            return
        own = work(self.share(items))
        for start in range(0, len(items), self.count):
            failure: Exception | None = None
            result = None
            try:
                if start + self.index < len(items):
                    result = next(own)
            except Exception as error:  # noqa: BLE001 - told to the others, then raised
                failure = error
            answers = self.gather((result, None if failure is None else str(failure)))
            if failure is not None:
                raise failure
            for rank, (_, message) in enumerate(answers):
                if message is not None:
                    raise RankError(f"rank {rank} of {self.count}: {message}")
            yield from (found for found, _ in answers[: len(items) - start])

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.count > 1:
            with _told():
                dist.barrier()


ALONE = Ranks()


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """The ranks that ``torchrun`` started, connected until the block ends; `ALONE` without it.

    Raises:
        RankError: one of them did not come in time.
    """
    count = ranks_here()
    if count == 1:
        yield ALONE
        return
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    try:
        dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"{count} ranks were started, and not all came within {PATIENCE} seconds: {error}. "
            "Start all of them with one torchrun command"
        ) from error
    try:
        yield Ranks(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()


@contextmanager
def _told() -> Iterator[None]:
    """Failures to reach another rank in words."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"another rank ended, or was silent for {PATIENCE} seconds: {error}. What it "
            "printed says why; what segments had been finished stays in the work folder, see "
            f"{spelled('work_dir')}"
        ) from error
