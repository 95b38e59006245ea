"""What ``torchrun`` says of the processes that it started."""

from __future__ import annotations

import os


def rank_here() -> int:
    """The number of this process among those that ``torchrun`` started; 0 without it."""
    return int(os.environ.get("RANK", "0")) if ranks_here() > 1 else 0


def ranks_here() -> int:
    """How many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
