"""What is done of a compile that goes segment by segment, kept so that it can go on after a kill.

In the work folder (`awqc.artifacts.work_folder`) are, beside what says whose they are::

    segment-0001 … segment-0007     what was found of each finished segment (segment_record.py)
    cut-0007                        the values behind the last one, for all that goes on

The values behind a segment are removed when the next one is there, so that the folder grows by
codes and scales alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from awqc.artifacts.tensor_trees import Keep, as_it_is
from awqc.artifacts.work_folder import WorkFolder
from awqc.errors import AwqcError, Note, RankError
from awqc.executor.stream import Stream
from awqc.machine.ranks import Ranks
from awqc.passes.base import Change
from awqc.passes.segment_record import record_of
from awqc.program import Program

SEGMENT, CUT = "segment", "cut"
MEMORY, SIZE = "limit of memory", "weights of a segment"
UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


class Journal:
    """A journal that keeps nothing; what it has, `WorkJournal` fills.

    Attributes:
        done: indices of segments of which a record is there.
        behind: the one behind which values are there, if any.
    """

    def __init__(self) -> None:
        self.done: frozenset[int] = frozenset()
        self.behind: int | None = None

    def size(self, planned: int, memory: int | None) -> int:
        """Elements of weights that segments have at least: as ``planned``, unless segments of
        another size are kept that were made for the same limit of ``memory``.

        What there is of memory differs a little from run to run, and so may plans.
        """
        return planned

    def begin(self, what: Callable[[], Mapping[str, str]], count: int) -> None:
        """Find what is done of the compile that ``what`` describes, in ``count`` segments."""

    def record(self, index: int, keep: Keep) -> dict[str, Any]:
        """What is kept of a segment, one of ``done``, its tensors where ``keep`` puts them."""
        raise KeyError(index)

    def values(self, keep: Keep) -> Stream:
        """The values behind the segment ``behind``, where ``keep`` puts them."""
        raise KeyError(self.behind)

    def add(
        self, index: int, part: Program, changes: Sequence[Change], values: Stream | None
    ) -> None:
        """Keep what became of a segment, and the values behind it if they are given."""

    def needs(self, count: int) -> list[bool]:
        """For each of ``count`` segments whether values must go into it.

        They must where it is not done, or where no values are kept between it and one that is not.
        """
        found, after = [False] * count, False
        for index in reversed(range(count)):
            after = index not in self.done or (after and index != self.behind)
            found[index] = after
        return found


class WorkJournal(Journal):
    """A journal in a work folder.

    Args:
        folder: where it is kept; removed when the compile has ended well.
        fresh: whether what is there is removed first.
        say: called with what a user should know.
    """

    def __init__(self, folder: WorkFolder, fresh: bool, say: Callable[[Note], object]) -> None:
        super().__init__()
        self._folder, self._fresh, self._say = folder, fresh, say
        self._count = 0
        self._note: dict[str, int] = {}

    def size(self, planned: int, memory: int | None) -> int:
        """As of any journal."""
        self._note = {MEMORY: memory or 0, SIZE: planned}
        kept = {} if self._fresh else self._folder.noted()
        if kept.get(MEMORY) == self._note[MEMORY]:
            self._note[SIZE] = kept.get(SIZE, planned)
        return self._note[SIZE]

    def begin(self, what: Callable[[], Mapping[str, str]], count: int) -> None:
        """As of any journal.

        Raises:
            UsageError: the folder is another compile's.
            ExportError: it cannot be written.
        """
        self._folder.take(what(), self._fresh, self._note)
        self._count = count
        names = self._folder.names()
        for name in self._folder.damaged():
            self._say(Note(f"{name} in {self._folder.path} is damaged; it is made anew", True))
        self.done = frozenset(n for n in range(count) if _name(SEGMENT, n) in names)
        cuts = [n for n in range(count) if _name(CUT, n) in names]
        self.behind = max(self.done.intersection(cuts), default=None)
        for other in cuts:
            if other != self.behind:
                self._folder.drop(_name(CUT, other))
        if self.done:
            ago = _ago(time.time() - self._folder.written(_name(SEGMENT, max(self.done))))
            self._say(Note(f"going on after {self._so_far()}{ago}"))

    def record(self, index: int, keep: Keep) -> dict[str, Any]:
        """As of any journal."""
        found: dict[str, Any] = self._folder.read(_name(SEGMENT, index), keep)
        return found

    def values(self, keep: Keep) -> Stream:
        """As of any journal."""
        assert self.behind is not None
        return Stream.of_tree(self._folder.read(_name(CUT, self.behind), keep))

    def add(
        self, index: int, part: Program, changes: Sequence[Change], values: Stream | None
    ) -> None:
        """As of any journal; the values are there before the record that they belong to.

        Raises:
            ExportError: it cannot be written.
        """
        before = -1 if self.behind is None else self.behind
        goes_on = values is not None and before < index < self._count - 1
        if goes_on:
            assert values is not None
            self._folder.add(_name(CUT, index), values.as_tree())
        self._folder.add(_name(SEGMENT, index), record_of(part, changes))
        self.done |= {index}
        if 0 <= before < index:
            self._folder.drop(_name(CUT, before))
            self.behind = None
        if goes_on:
            self.behind = index

    @contextmanager
    def kept(self) -> Iterator[Journal]:
        """Remove the folder if the block ends well, or before anything is finished.

        Else an error's notes tell how to go on.
        """
        try:
            yield self
        except BaseException as error:
            if self.done:
                error.add_note(
                    f"{self._so_far()} is kept in {self._folder.path}: the same compile, run "
                    "again, goes on from there"
                )
            else:
                self._folder.remove()
            raise
        else:
            self._folder.remove()
        finally:
            self._folder.release()

    def _so_far(self) -> str:
        last = max(self.done) + 1
        if len(self.done) == last:
            return f"segment {last} of {self._count}"
        return f"{len(self.done)} of {self._count} segments"


class SharedJournal(Journal):
    """The journal of the first of several ranks, for all of them.

    Each rank has the values of its own batches alone, so none are kept: a compile that goes on runs
    the float model through the segments that are done, on as many ranks as it then has.

    Args:
        own: of this rank; of others than the first it keeps nothing.
        ranks: all.
    """

    def __init__(self, own: Journal, ranks: Ranks) -> None:
        super().__init__()
        self._own, self._ranks = own, ranks

    def size(self, planned: int, memory: int | None) -> int:
        """As of any journal: the smallest of what the ranks planned, or what is kept."""
        least = min(self._ranks.gather(planned))
        return self._ranks.gather(self._own.size(least, memory))[0]

    def begin(self, what: Callable[[], Mapping[str, str]], count: int) -> None:
        """As of any journal, on all ranks at once.

        Raises:
            RankError: the first rank could not; on that one, what it raised.
        """
        found = what()
        failure: AwqcError | None = None
        try:
            self._own.begin(lambda: found, count)
        except AwqcError as error:
            failure = error
        told = self._ranks.gather(None if failure is None else failure.text)[0]
        if failure is not None:
            raise failure
        if told is not None:
            raise RankError(f"the first rank: {told}")
        self.done = self._ranks.gather(self._own.done)[0]

    def record(self, index: int, keep: Keep) -> dict[str, Any]:
        """As of any journal, on all ranks at once."""
        own = self._own.record(index, as_it_is) if self._ranks.writes else {}
        found: dict[str, Any] = pytree.tree_map_only(Tensor, keep, self._ranks.gather(own)[0])
        return found

    def add(
        self, index: int, part: Program, changes: Sequence[Change], values: Stream | None
    ) -> None:
        """As of any journal."""
        self._own.add(index, part, changes, None)
        self.done |= {index}


def _name(kind: str, index: int) -> str:
    return f"{kind}-{index + 1:04}"


def _ago(seconds: float) -> str:
    """When something ended; empty where the clock was set back.

    >>> _ago(850), _ago(-3)
    (', finished 14 minutes ago', '')
    """
    for unit, length in UNITS:
        if seconds >= length:
            count = int(seconds // length)
            return f", finished {count} {unit}{'s' if count > 1 else ''} ago"
    return ""
