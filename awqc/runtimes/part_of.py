"""A part of a model whose file holds several, run as if it had a file of its own.

::

    decoder_model_merged.onnx   use_cache_branch = True:   the decoder, behind a past
                                use_cache_branch = False:  what its first call makes besides
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awqc.kv_cache import CACHE_FLAG, PAST
from awqc.program import Batch, InputSpec
from awqc.runtimes.base import Kernels, LoadedModel


class PartOf:
    """A `LoadedModel` that takes and gives some of what another one does.

    Attributes:
        inputs: those of the part.
        outputs: likewise, in its order.
        states: likewise.
        provider: where the other one runs.
    """

    def __init__(
        self, whole: LoadedModel, inputs: Sequence[str], outputs: Sequence[str], *, later: bool
    ) -> None:
        """``later``: whether the part is what runs behind a past; else what a first call makes."""
        self._whole, self._later = whole, later
        self.inputs = tuple(spec for spec in whole.inputs if spec.name in inputs)
        self.outputs = tuple(outputs)
        self.states = tuple(
            pair for pair in whole.states if pair[0] in inputs and pair[1] in outputs
        )
        self.provider = whole.provider

    def run(self, batch: Batch, only: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """As in `awqc.runtimes.base.LoadedModel`; inputs of other parts are made up."""
        wanted = self.outputs if only is None else only
        given = {spec.name: batch[spec.name] for spec in self.inputs if spec.name in batch}
        sizes: dict[int | str, int] = {
            axis: size
            for spec in self.inputs
            if spec.name in given
            for axis, size in zip(spec.shape, given[spec.name].shape, strict=True)
            if isinstance(axis, str)
        }
        others = {
            spec.name: self._made_up(spec, sizes)
            for spec in self._whole.inputs
            if spec.name not in given and spec not in self.inputs
        }
        return self._whole.run({**given, **others}, wanted)

    def kernels(self) -> Kernels:
        """As in `awqc.runtimes.base.LoadedModel`: those of the whole."""
        return self._whole.kernels()

    def _made_up(self, spec: InputSpec, sizes: dict[int | str, int]) -> Tensor:
        """Any tensor for ``spec`` that goes with ``sizes``; a past is empty."""
        if spec.name == CACHE_FLAG:
            return torch.tensor([self._later])
        other = 0 if spec.name.startswith(PAST) else 1
        shape = [s if isinstance(s, int) else sizes.get(s, other) for s in spec.shape]
        return torch.zeros(shape, dtype=spec.dtype)
