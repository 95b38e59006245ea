"""How many tokens a model of text takes, where its configuration promises more."""

from __future__ import annotations

import torch

from awqc.huggingface.tokens import token_batch
from awqc.program import Program


def longest_text(program: Program, length: int, token: int) -> int:
    """The most tokens, ``length`` at most, on which ``program`` runs; ``length`` where none fit.

    Some models count positions from behind the padding token, so that a table of 514 rows takes
    texts of 512 tokens. ``token`` is one that is no padding.
    """
    if _runs(program, length, token):
        return length
    fits, fails = 1, length
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if _runs(program, middle, token) else (fits, middle)
    return fits if fits > 1 else length


def _runs(program: Program, length: int, token: int) -> bool:
    ids = torch.full((1, length), token)
    try:
        program.run(token_batch(program, ids))
    except (IndexError, RuntimeError):  # How torch says that a table has no such row.
        return False
    return True
