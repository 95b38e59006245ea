"""What lives between two segments of a program, for all that is run through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from awqc.executor.run import Run
from awqc.executor.sections import Section
from awqc.machine.spool import Spool
from awqc.program import Batch


def spool_of_values(run: Run) -> Spool:
    """Where values between two segments are."""
    return Spool("activations between two segments", run.bounds.values)


@dataclass
class Stream:
    """Values between two segments, by name: tensors, whose elements lie in order, and sizes.

    Attributes:
        batches: for each calibration batch.
        check: for the batch on which folds are proved.
        watched: for the batch on which layers are compared; None: they are not.
    """

    batches: list[Batch]
    check: Batch
    watched: Batch | None

    def watched_behind(self, part: Section) -> Batch | None:
        """What is watched once it has gone through ``part``, which is still float."""
        if self.watched is None:
            return None
        outputs = part.program.run(self.watched)
        return {**self.watched, **dict(zip(part.program.outputs, outputs, strict=True))}

    def go_on(self, part: Section, run: Run, watched: Batch | None, needed: set[str]) -> None:
        """Past ``part``, of which ``run`` holds what it made; what is not ``needed`` is let go.

        ``watched`` is what `watched_behind` gave.
        """
        outputs = dict(zip(part.program.outputs, run.reference, strict=True))
        self.check = _kept({**self.check, **outputs}, needed)
        self.watched = None if watched is None else _kept(watched, needed)
        spool = spool_of_values(run)
        for number, made in enumerate(run.made):
            behind = {**self.batches[number], **spool.keep(_kept(made, needed))}
            self.batches[number] = _kept(behind, needed)
            run.made[number] = {}

    def as_tree(self) -> dict[str, Any]:
        """All of it."""
        return {"batches": self.batches, "check": self.check, "watched": self.watched}

    @classmethod
    def of_tree(cls, tree: dict[str, Any]) -> Stream:
        """Of what `as_tree` gave."""
        return cls(tree["batches"], tree["check"], tree["watched"])


def _kept(values: Batch, needed: set[str]) -> Batch:
    """Those of ``values`` that are ``needed``, in one order of elements.

    What goes on is then the same whether it stayed in memory or came from a file.
    """
    found = {name: value for name, value in values.items() if name in needed}
    ordered: Batch = pytree.tree_map_only(Tensor, _in_order, found)
    return ordered


def _in_order(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()
