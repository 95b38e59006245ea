"""Whether a failure of a backward pass says that an operation has no derivative."""

from __future__ import annotations

import re

_SAYINGS = (
    r"derivative for (?P<operation>\S+) is not implemented",
    r"[Tt]rying to backward through (?P<operation>\S+) but no autograd formula was registered",
)


def why_no_derivative(error: RuntimeError) -> str | None:
    """The operation without which there is no gradient, in words; None for another failure.

    >>> why_no_derivative(RuntimeError("derivative for aten::copy is not implemented"))
    'the operation aten::copy has no derivative'
    """
    for saying in _SAYINGS:
        if match := re.search(saying, str(error)):
            return f"the operation {match['operation']} has no derivative"
    return None
