"""Token ids as a batch of a model's inputs, under the names that transformers gives them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from awqc.errors import UsageError
from awqc.program import Batch, InputSpec


class TakesTokens(Protocol):
    """What has inputs for tokens: a program, or a model that was made of one."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The tensor inputs."""
        ...

    @property
    def states(self) -> tuple[tuple[str, str], ...]:
        """Pairs (input, output) of a carried state."""
        ...


def token_batch(program: TakesTokens, ids: Tensor, mask: Tensor | None = None) -> Batch:
    """A batch for ``program``, nothing cached yet, of token ids ``(batch, sequence)``.

    ``mask`` ``(batch, sequence)`` is 0 on padding, which follows the text.
    """
    mask = torch.ones_like(ids) if mask is None else mask
    made = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": torch.arange(ids.shape[1]).repeat(ids.shape[0], 1),
        "token_type_ids": torch.zeros_like(ids),
    }
    carried = {name for name, _ in program.states}
    batch: Batch = {}
    for spec in program.inputs:
        if spec.name in carried:
            _, heads, _, width = spec.shape
            assert isinstance(heads, int)
            assert isinstance(width, int)
            batch[spec.name] = torch.zeros(ids.shape[0], heads, 0, width, dtype=spec.dtype)
        elif spec.name in made:
            batch[spec.name] = made[spec.name].to(spec.dtype)
        else:
            raise UsageError(
                f"the model has an input {spec.name!r}, which text does not give; "
                "give calibration arrays (.npz) instead"
            )
    return batch
