"""Another method in place of an object's own, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

FORWARD = "forward"


def forward_instead(module: Any, forward: Callable[..., Any]) -> AbstractContextManager[None]:
    """Let calls of ``module`` go to ``forward``, see `method_instead`."""
    return method_instead(module, FORWARD, forward)


@contextmanager
def method_instead(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let ``owner.name(…)`` call ``function``.

    What comes back then is that of its class, or one that was set on the object itself, as tools
    that wrap models do.
    """
    own = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        vars(owner).pop(name, None)
        if own is not None:
            setattr(owner, name, own)
