"""Open a compiled model in any runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from awqc.runtimes.base import LoadedModel, find_runtime

if TYPE_CHECKING:
    from awqc.runtimes.onnxruntime import Provider, Session
    from awqc.runtimes.torch_int4 import TorchModel


@overload
def load(
    path: str | Path,
    provider: Provider = ...,
    accuracy_level: int | None = ...,
    *,
    backend: Literal["onnxruntime"] = ...,
) -> Session: ...


@overload
def load(
    path: str | Path,
    provider: Provider = ...,
    accuracy_level: int | None = ...,
    *,
    backend: Literal["torch-int4"],
) -> TorchModel: ...


@overload
def load(
    path: str | Path,
    provider: Provider = ...,
    accuracy_level: int | None = ...,
    *,
    backend: str,
) -> LoadedModel: ...


def load(
    path: str | Path,
    provider: Provider = "auto",
    accuracy_level: int | None = None,
    *,
    backend: str = "onnxruntime",
) -> LoadedModel:
    """Open a compiled model; in onnxruntime with the settings of ``session.json`` beside it.

    Args:
        path: an output folder of a compile, or a file in it. onnxruntime takes the form in
            ``ort/`` where a folder has one.
        provider: ``auto``, ``cuda`` or ``cpu``; cuda raises where it does not work.
        accuracy_level: of all low-bit products: 1 computes in float32, 4 with int8
            activations; None: as the model and ``session.json`` say, else onnxruntime's
            default, which is 4.
        backend: ``onnxruntime``; or ``torch-int4``, which runs ``model.pt2`` in torch on the
            CPU, 4-bit products in torch's own kernel (in bfloat16) where their shapes fit; or
            another of `awqc.runtimes`.

    Raises:
        UsageError: there is no model, or the runtime or the provider does not work here.
        VerificationError: the runtime does not load the model.
    """
    return find_runtime(backend).load(Path(path), provider, accuracy_level)
