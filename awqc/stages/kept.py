"""Where finished segments are kept while a compile lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from awqc.artifacts.work_folder import WorkFolder, work_folder_beside
from awqc.errors import Note
from awqc.machine.ranks import Ranks
from awqc.options import Options
from awqc.passes.journal import Journal, SharedJournal, WorkJournal


@contextmanager
def keeping(
    options: Options,
    target: Path | None,
    used: Sequence[Path],
    say: Callable[[Note], object],
    ranks: Ranks,
) -> Iterator[Journal]:
    """What keeps finished segments for as long as the block lasts, if there is a place for them.

    Raises:
        UsageError: the place is no work folder of awqc's, or in the way of something.
    """
    place = None if target is None else work_folder_beside(target)
    if options.work_dir is not None:
        place = Path(options.work_dir).expanduser()
    if place is None or not ranks.writes:
        own: AbstractContextManager[Journal] = nullcontext(Journal())
    else:
        folder = WorkFolder(place, (*used, *([] if target is None else [target])))
        own = WorkJournal(folder, options.fresh, say).kept()
    with own as journal:
        yield journal if ranks.count == 1 else SharedJournal(journal, ranks)
