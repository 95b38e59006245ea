"""Open ONNX models in onnxruntime; torch is not imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnxruntime.capi import onnxruntime_pybind11_state

from awqc.artifacts.json_files import read_json
from awqc.artifacts.names import BUNDLE_REPORT, ENCODER_MODEL, GGUF, REPORT
from awqc.artifacts.names import MODEL as MODEL
from awqc.artifacts.names import TUNED as TUNED
from awqc.errors import UsageError, spelled
from awqc.machine.memory import trim
from awqc.runtimes.session_settings import ACCURACY_LEVEL, Settings

DATA_FOLDER = "session.model_external_initializers_file_folder_path"
LOW_BIT, LEVEL = "MatMulNBits", "accuracy_level"
LEVELLED = frozenset({LOW_BIT, "QMoE"})
"""Operations with low-bit weights that have an accuracy level."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def find_model(path: Path) -> Path:
    """The model at ``path``: a file, or of a folder ``ort/model.onnx``, else ``model.onnx``.

    Raises:
        UsageError: there is none.
    """
    for file in (path, path / TUNED / MODEL, path / MODEL):
        if file.is_file():
            return file
    if any((place / ENCODER_MODEL).is_file() for place in (path, path / TUNED)):
        raise UsageError(f"{path}: is a model of several graphs; awqc run uses it")
    if (path / GGUF).is_file():
        raise UsageError(
            f"{path}: holds {GGUF} alone, which llama.cpp runs; compile with "
            f"{spelled('formats', 'gguf,pt2')} to have torch run the same weights"
        )
    raise UsageError(
        f"{path}: there is no {MODEL}, and none in {TUNED}/; give a folder that awqc compile wrote"
    )


def of_several_graphs(folder: Path) -> bool:
    """Whether ``folder`` is what a compile wrote for a model of several graphs."""
    report = folder / REPORT
    told = report.is_file() and "wiring" in read_json(report)
    return told or (folder / BUNDLE_REPORT).is_file()


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
    fixed: Mapping[str, int] | None = None,
    shown: Sequence[str] = (),
) -> Any:
    """An `onnxruntime.InferenceSession`.

    Args:
        model: the ``.onnx`` file.
        provider: ``cpu`` or ``cuda``.
        settings: what else to set.
        level: accuracy level of all low-bit products, whatever the model says; None: as it says.
        threads: for one operation; 0: onnxruntime's choice.
        fixed: numbers for inputs that need not be given, of which the model has some or none;
            they can then not be given any more.
        shown: values in its graph, whole numbers, that it gives as well.

    Raises:
        UsageError: CUDA was asked for, and the session would run on the CPU.
    """
    settings = settings or Settings()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and its log prints names as they are
    options.intra_op_num_threads = threads
    entries = dict(settings.config)
    source: str | bytes = str(model)
    if level is not None:
        entries[ACCURACY_LEVEL] = level
    if level is not None or fixed or shown:
        source = _edited(model, level, fixed or {}, shown)
        entries[DATA_FOLDER] = str(model.parent.resolve())
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    providers: list[Any] = [CPU]
    if provider == "cuda":
        ort.preload_dlls()
        providers.insert(0, (CUDA, settings.options))
    session = ort.InferenceSession(source, options, providers=providers)
    trim()  # opening takes twice what the session holds then
    if provider == "cuda" and session.get_providers()[0] != CUDA:
        raise UsageError(
            "CUDA was asked for, but onnxruntime fell back to the CPU: install onnxruntime-gpu "
            "and CUDA and cuDNN of its version, or use the provider cpu"
        )
    return session


def _edited(
    model: Path, level: str | None, fixed: Mapping[str, int], shown: Sequence[str]
) -> str | bytes:
    """``model`` with ``level`` in all its low-bit products, ``fixed`` inputs, and ``shown`` values
    among its outputs: its name where there is nothing of that.

    For nodes and inputs only a model whose weights lie in a file of their own is looked at, as
    such are written here.
    """
    if not model.with_name(f"{model.name}.data").is_file() and not shown:
        return str(model)
    proto = onnx.load(model, load_external_data=False)
    levels = {} if level is None else {
        node.name: int(level) for node in _low_bit(proto.graph)
    }  # fmt: skip
    inputs = [value for value in proto.graph.input if value.name in fixed]
    if not levels and not inputs and not shown:
        return str(model)
    int64 = onnx.TensorProto.INT64
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(n, int64, None) for n in shown)
    set_levels(proto, levels)
    for value in inputs:
        proto.graph.input.remove(value)
        tensor = next(each for each in proto.graph.initializer if each.name == value.name)
        number = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(np.full_like(number, fixed[value.name]), value.name)
        )
    return bytes(proto.SerializeToString())


def metadata_of(model: Path) -> dict[str, str]:
    """What ``model`` tells of itself; nothing where it does not read as one, which opening it
    says."""
    try:
        told = onnx.load(model, load_external_data=False).metadata_props
    except DecodeError:
        return {}
    return {entry.key: entry.value for entry in told}


def set_levels(proto: onnx.ModelProto, levels: Mapping[str, int]) -> None:
    """Write accuracy levels into the low-bit products that ``levels`` names."""
    for node in _low_bit(proto.graph):
        if node.name in levels:
            kept = [attribute for attribute in node.attribute if attribute.name != LEVEL]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(LEVEL, levels[node.name])])


def read_levels(proto: onnx.ModelProto) -> dict[str, int]:
    """Accuracy levels of the low-bit products, by the names of their nodes."""
    return {
        node.name: next((a.i for a in node.attribute if a.name == LEVEL), 0)
        for node in _low_bit(proto.graph)
    }


def _low_bit(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The low-bit products of ``graph`` and of the branches in it."""
    for node in graph.node:
        if node.op_type in LEVELLED:
            yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _low_bit(attribute.g)
