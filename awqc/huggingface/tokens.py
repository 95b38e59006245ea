"""Token ids as a batch of a model's inputs, under the names that transformers gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from awqc.errors import UsageError
from awqc.huggingface.boxes import BOXES, made_up_boxes
from awqc.kv_cache import empty_shape
from awqc.program import Batch, InputSpec

TYPES = "token_type_ids"


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


def complete_tokens(program: TakesTokens, given: Mapping[str, Tensor]) -> Batch:
    """``given`` and what follows from its ``input_ids`` ``(batch, sequence)``.

    That is a mask without padding, positions counted over the mask, types that are all 0, boxes of
    a page that is made up, and caches that hold nothing yet. What the program has no input for is
    not added.
    """
    ids = given.get("input_ids")
    if ids is None or ids.ndim != 2:
        return dict(given)
    mask = given.get("attention_mask", torch.ones_like(ids, dtype=torch.long))
    made = {
        "attention_mask": mask,
        "position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0),
    }
    carried = {name for name, _ in program.states}
    complete = dict(given)
    for spec in program.inputs:
        if spec.name in carried and spec.name not in given:
            complete[spec.name] = torch.zeros(empty_shape(spec.shape, len(ids)), dtype=spec.dtype)
        elif spec.name == BOXES:
            complete.setdefault(BOXES, made_up_boxes(len(ids), ids.shape[1], spec.dtype))
        elif spec.name == TYPES:
            kinds = [size for size in spec.shape[2:] if isinstance(size, int)]
            complete.setdefault(TYPES, torch.zeros(*ids.shape, *kinds, dtype=ids.dtype))
        elif spec.name in made:
            complete.setdefault(spec.name, made[spec.name])
    return complete


def token_batch(program: TakesTokens, ids: Tensor, mask: Tensor | None = None) -> Batch:
    """A batch for ``program``, nothing cached yet, of token ids ``(batch, sequence)``.

    ``mask`` ``(batch, sequence)`` is 0 on padding, which follows the text.

    Raises:
        UsageError: the program has another input.
    """
    positions = torch.arange(ids.shape[1]).repeat(ids.shape[0], 1)
    given = {"input_ids": ids, "position_ids": positions}
    made = complete_tokens(program, given if mask is None else given | {"attention_mask": mask})
    for spec in program.inputs:
        if spec.name not in made:
            raise UsageError(
                f"the model has an input {spec.name!r}, which text does not give; "
                "give calibration arrays (.npz) instead"
            )
    return {spec.name: made[spec.name].to(spec.dtype) for spec in program.inputs}
