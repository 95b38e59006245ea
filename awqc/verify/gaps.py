"""How far the outputs of a model are from others: each by itself, and the worst of them."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch import Tensor

from awqc.errors import VerificationError
from awqc.verify.gap import Gap


class Gaps:
    """The `Gap` of each output.

    Attributes:
        outputs: by name, in the order in which they came.
    """

    def __init__(self, states: Collection[str] = (), constants: Collection[str] = ()) -> None:
        """No batch yet.

        Args:
            states: outputs that are carried to the next call; none of them is the `worst`.
            constants: outputs that depend on no input.
        """
        self.outputs: dict[str, Gap] = {}
        self._states, self._constants = states, constants

    def add(self, name: str, now: Tensor, reference: Tensor, mask: Tensor | None = None) -> None:
        """Take in a batch of the output ``name``; ``mask`` marks the tokens that count.

        Raises:
            VerificationError: the shapes differ.
        """
        gap = self.outputs.setdefault(name, Gap(constant=name in self._constants))
        try:
            gap.add(now, reference, mask)
        except VerificationError as error:
            raise VerificationError(f"{name}: {error.text}") from error

    def add_chosen(self, name: str, taken: Tensor, best: Tensor, among: Tensor) -> None:
        """Take in the scores that were taken in place of the ``best``, ``among`` others."""
        gap = self.outputs.setdefault(name, Gap(among=Gap()))
        assert gap.among is not None
        gap.among.add(among, among)
        gap.add(taken, best)

    @property
    def worst(self) -> str | None:
        """The output that has moved most; of states only if there is nothing else."""
        names = [name for name in self.outputs if name not in self._states] or [*self.outputs]
        return max(names, key=lambda name: self.outputs[name].rel, default=None)

    @property
    def rel(self) -> float:
        """Of the `worst`; infinite where there is no output at all."""
        return math.inf if self.worst is None else self.outputs[self.worst].rel

    @property
    def norm_rel(self) -> float:
        """``|now - reference| / |reference|`` in the L2 norm over all floating outputs at once."""
        floats = [gap for gap in self.outputs.values() if not gap.discrete]
        noise, signal = (sum(gap.noise for gap in floats), sum(gap.signal for gap in floats))
        if not all(gap.finite for gap in floats):
            return math.inf
        if noise == 0:
            return 0.0
        return math.sqrt(noise / signal) if signal > 0 else math.inf

    def distance(self) -> dict[str, Any]:
        """`Gap.distance` of the worst output and of each."""
        return {**self._all("distance"), "norm_rel": self.norm_rel}

    def loss(self) -> dict[str, Any]:
        """`Gap.loss` of the worst output and of each."""
        return self._all("loss")

    def _all(self, kind: str) -> dict[str, Any]:
        each = {name: getattr(gap, kind)() for name, gap in self.outputs.items()}
        if self.worst is None:
            return {**getattr(Gap(), kind)(), "worst": None, "outputs": {}}
        return {**each[self.worst], "worst": self.worst, "outputs": each}
