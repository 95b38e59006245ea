"""A compiled submodule that is called as the original was."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from awqc.errors import UsageError
from awqc.recording.calls import SeenCall


class CompiledBlock(nn.Module):
    """Stands in a model where ``original`` stood, and is called as that was."""

    def __init__(self, graph_module: nn.Module, original: nn.Module, call: SeenCall) -> None:
        super().__init__()
        self.graph_module = graph_module
        self._signature = inspect.signature(original.forward)
        self._name = type(original).__name__
        self._form = call.form

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The compiled submodule's result.

        Raises:
            UsageError: an argument that is no tensor has another value than when compiled.
        """
        call = SeenCall(dict(self._signature.bind(*args, **kwargs).arguments))
        if call.form != self._form:
            raise UsageError(
                f"{self._name} was compiled for {_constants(self._form)}; it is called with "
                f"{_constants(call.form)}"
            )
        return self.graph_module(**call.arguments)


def _constants(form: dict[str, Any]) -> str:
    return ", ".join(f"{name}={'a tensor' if v is Tensor else repr(v)}" for name, v in form.items())
