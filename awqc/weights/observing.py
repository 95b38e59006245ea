"""Which rows of an activation count in the statistics of a product that reads it."""

from __future__ import annotations

from torch import Tensor

from awqc.graph.linears import Linear


def observed_rows(
    linear: Linear, x: Tensor, mask: Tensor | None, selected: Tensor | None = None
) -> Tensor:
    """The matrix ``(blocks, tokens, K)`` that ``linear`` reads of ``x``.

    Tokens where ``mask`` ``(batch, tokens)`` is false are padding, and left out where ``x`` has
    these axes; so are the rows where ``selected``, as ``x`` with one column, is false.
    """
    if linear.kernel:
        return linear.input_rows(x)
    wanted = None if selected is None else selected.squeeze(-1)
    if mask is not None and x.ndim > mask.ndim and x.shape[: mask.ndim] == mask.shape:
        padded = mask.reshape(*mask.shape, *(1,) * (x.ndim - 1 - mask.ndim))
        wanted = mask if wanted is None else wanted & padded
    return linear.input_rows(x if wanted is None else x[wanted])
