"""What an ONNX model chooses by its values, as it says itself: the indices of its top-k."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor

from awqc.program import Batch
from awqc.runtimes.base import failing_as
from awqc.runtimes.onnxruntime import EXACT, resolve_provider
from awqc.runtimes.session_file import ORT_ERRORS, open_session
from awqc.runtimes.torch_values import to_numpy

TOPK = "TopK"


class ChoicesOf:
    """A model that is open to say what it chooses, computing products in float32."""

    def __init__(self, file: Path, provider: str) -> None:
        """Open ``file``.

        Raises:
            UsageError: the provider does not run here.
            VerificationError: onnxruntime does not load the model.
        """
        nodes = onnx.load(file, load_external_data=False).graph.node
        self._names = tuple(node.output[1] for node in nodes if node.op_type == TOPK)
        with failing_as(f"{file.name}: onnxruntime does not load it", *ORT_ERRORS):
            self._session = open_session(
                file, resolve_provider(provider), level=EXACT, shown=self._names
            )
        self._inputs = {value.name for value in self._session.get_inputs()}

    def choices(self, batch: Batch) -> tuple[Tensor, ...]:
        """The indices that each top-k takes of ``batch``, in the order of the model.

        Raises:
            VerificationError: onnxruntime cannot run it.
        """
        feeds = {name: to_numpy(x) for name, x in batch.items() if name in self._inputs}
        with failing_as("onnxruntime cannot run the model", *ORT_ERRORS, ValueError):
            made = self._session.run(list(self._names), feeds) if self._names else []
        return tuple(torch.from_numpy(value) for value in made)
