"""How the `generate` of a whole lets the decoder inside generate: what its files do not say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from awqc.huggingface.config_values import context_length
from awqc.recording.instead import method_instead

GENERATE = "generate"
ENDS = "eos_token_id"


@contextmanager
def noting_inner(model: Any) -> Iterator[dict[str, dict[str, Any]]]:
    """Settings of each module inside of ``model`` whose `generate` is called meanwhile, by path.

    In the words of ``generation_config.json``: which tokens end a text, and how long it may be.
    """
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        for path, module in model.named_modules():
            if path and callable(getattr(module, GENERATE, None)):
                noted = _noted(path, module, found)
                stack.enter_context(method_instead(module, GENERATE, noted))
        yield found


def _noted(path: str, module: Any, found: dict[str, dict[str, Any]]) -> Callable[..., Any]:
    own = module.generate

    @wraps(own)
    def generate(*args: Any, **kwargs: Any) -> Any:
        usual = getattr(getattr(module, "generation_config", None), ENDS, None)
        said = {ENDS: kwargs.get(ENDS, usual), "max_length": context_length(module.config)}
        found[path] = {name: value for name, value in said.items() if value is not None}
        return own(*args, **kwargs)

    return generate
