"""Another forward in place of a module's own, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def forward_instead(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Let calls of ``module`` go to ``forward``.

    What comes back then is that of its class, or one that was set on the module itself, as tools
    that wrap models do.
    """
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        vars(module).pop("forward", None)
        if own is not None:
            module.forward = own
