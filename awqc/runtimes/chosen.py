"""What an ONNX model chooses by its values, as it says itself: the indices of its top-k."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor

from awqc.program import Batch
from awqc.runtimes.onnxruntime import EXACT, resolve_provider
from awqc.runtimes.ort_model import OrtModel
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
        self._model = OrtModel(file, resolve_provider(provider), level=EXACT, shown=self._names)

    def choices(self, batch: Batch) -> tuple[Tensor, ...]:
        """The indices that each top-k takes of ``batch``, in the order of the model.

        Raises:
            VerificationError: onnxruntime cannot run it.
        """
        if not self._names:
            return ()
        made = self._model.run({name: to_numpy(x) for name, x in batch.items()}, self._names)
        return tuple(torch.from_numpy(value) for value in made)
