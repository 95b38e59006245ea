"""Open ONNX models in onnxruntime as the file beside them says; torch is not imported.

``session.json`` beside a model holds what its sessions should set::

    {"config": {KEY: VALUE},                              # for every provider
     "providers": {"cuda": {"config": {}, "options": {}}}}  # for one, with its own options
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from awqc.errors import UsageError

MODEL, TUNED, SETTINGS = "model.onnx", "ort", "session.json"
ACCURACY_LEVEL = "session.qdq_matmulnbits_accuracy_level"
DATA_FOLDER = "session.model_external_initializers_file_folder_path"
LOW_BIT, LEVEL = "MatMulNBits", "accuracy_level"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True)
class Settings:
    """What a session sets.

    Attributes:
        config: session config entries.
        options: options of the provider.
    """

    config: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


def find_model(path: Path) -> Path:
    """The model at ``path``: a file, or of a folder ``ort/model.onnx``, else ``model.onnx``.

    Raises:
        UsageError: there is none.
    """
    for file in (path, path / TUNED / MODEL, path / MODEL):
        if file.is_file():
            return file
    raise UsageError(
        f"{path}: there is no {MODEL}, and none in {TUNED}/; give a folder that awqc compile wrote"
    )


def read_settings(model: Path, provider: str) -> Settings:
    """What ``session.json`` beside ``model`` says for ``provider`` (``cpu`` or ``cuda``).

    Raises:
        UsageError: the file does not read like that.
    """
    path = model.with_name(SETTINGS)
    if not path.is_file():
        return Settings()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        own = content.get("providers", {}).get(provider, {})
        config = {**content.get("config", {}), **own.get("config", {})}
        return Settings(
            {str(key): str(value) for key, value in config.items()},
            {str(key): str(value) for key, value in own.get("options", {}).items()},
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{path}: is no file of session settings: {error}") from error


ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    each
    for each in vars(onnxruntime_pybind11_state).values()
    if isinstance(each, type) and issubclass(each, Exception)
)
"""What onnxruntime raises: its own classes have no common base."""


def open_session(
    model: Path,
    provider: str,
    settings: Settings | None = None,
    *,
    level: str | None = None,
    threads: int = 0,
) -> Any:
    """An `onnxruntime.InferenceSession`.

    Args:
        model: the ``.onnx`` file.
        provider: ``cpu`` or ``cuda``.
        settings: what else to set.
        level: accuracy level of all low-bit products, whatever the model says; None: as it says.
        threads: for one operation; 0: onnxruntime's choice.

    Raises:
        UsageError: CUDA was asked for, and the session would run on the CPU.
    """
    settings = settings or Settings()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    entries = dict(settings.config)
    source: str | bytes = str(model)
    if level is not None:
        entries[ACCURACY_LEVEL] = level
        source = _with_level(model, int(level))
        entries[DATA_FOLDER] = str(model.parent.resolve())
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    providers: list[Any] = [CPU]
    if provider == "cuda":
        ort.preload_dlls()
        providers.insert(0, (CUDA, settings.options))
    session = ort.InferenceSession(source, options, providers=providers)
    if provider == "cuda" and session.get_providers()[0] != CUDA:
        raise UsageError(
            "CUDA was asked for, but onnxruntime fell back to the CPU: install onnxruntime-gpu "
            "and CUDA and cuDNN of its version, or use the provider cpu"
        )
    return session


def _with_level(model: Path, level: int) -> str | bytes:
    """``model`` with ``level`` in all its MatMulNBits nodes: its name where it has none.

    Only a model whose weights lie in a file of their own is looked at, as such nodes are
    written here.
    """
    if not model.with_name(f"{model.name}.data").is_file():
        return str(model)
    proto = onnx.load(model, load_external_data=False)
    levels = {node.name: level for node in proto.graph.node if node.op_type == LOW_BIT}
    if not levels:
        return str(model)
    set_levels(proto, levels)
    return bytes(proto.SerializeToString())


def set_levels(proto: onnx.ModelProto, levels: Mapping[str, int]) -> None:
    """Write accuracy levels into the MatMulNBits nodes that ``levels`` names."""
    for node in proto.graph.node:
        if node.op_type == LOW_BIT and node.name in levels:
            kept = [attribute for attribute in node.attribute if attribute.name != LEVEL]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(LEVEL, levels[node.name])])


def read_levels(proto: onnx.ModelProto) -> dict[str, int]:
    """Accuracy levels of the MatMulNBits nodes, by their names."""
    return {
        node.name: next((a.i for a in node.attribute if a.name == LEVEL), 0)
        for node in proto.graph.node
        if node.op_type == LOW_BIT
    }
