"""What the files of a Hugging Face folder may not do while nobody has said that they are trusted.

transformers runs Python of a folder when told to trust it, and asks on standard input where it
was told nothing. A folder can also name classes, kernels and files that lie elsewhere.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TextIO

from awqc.artifacts.json_files import Object
from awqc.capture.identifiers import quoted
from awqc.errors import UsageError, spelled
from awqc.machine.process import quiet_libraries

TRUST = spelled("trust_remote_code", True)
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
NAMED = {
    "tokenizer_class": ("tokenizer", "PreTrainedTokenizerBase"),
    "image_processor_type": ("image processor", "ImageProcessingMixin"),
    "feature_extractor_type": ("feature extractor", "FeatureExtractionMixin"),
    "processor_class": ("processor", "ProcessorMixin"),
}
"""Keys that name a class of transformers: what it is, and which class it must be of."""
KINDS: dict[str, Any] = {
    "model_type": str, "is_encoder_decoder": bool, "id2label": dict, "auto_map": dict,
    "vocab_size": int, "hidden_size": (int, list), "num_attention_heads": (int, list),
}  # fmt: skip
"""Keys of a configuration that awqc reads, and what their values are."""

FILES = ("transformers_weights", "backbone")
"""Keys of a configuration that may name files, or models that lie elsewhere."""

_lock = threading.Lock()
_readers = 0
_kept: tuple[TextIO, bool]


@contextmanager
def nothing_to_read() -> Iterator[None]:
    """Let standard input be at its end, and no model hub be reached.

    Whoever asks gets no answer. Both come back when the last of the threads that are in here has
    left.
    """
    from huggingface_hub import constants

    global _readers, _kept
    with _lock:
        if _readers == 0:
            _kept = sys.stdin, constants.HF_HUB_OFFLINE
            sys.stdin, constants.HF_HUB_OFFLINE = io.StringIO(), True
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                sys.stdin, constants.HF_HUB_OFFLINE = _kept


def check_kinds(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a ``config.json`` where what awqc reads is of another type, in any part of it.

    Raises:
        UsageError: with the place.
    """
    for where, part in _objects(config, "config.json"):
        found = Object(part, f"{path}: {where}")
        for key, kind in KINDS.items():
            found.optional(key, kind)
        found.listed("architectures", str)


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a ``config.json`` that wants code which transformers does not bring.

    Raises:
        UsageError: the model, or a part of it, is Python code of the folder, or runs kernels
            from elsewhere.
    """
    from transformers import CONFIG_MAPPING

    for where, part in _objects(config, "config.json"):
        known = part is config and part.get("model_type") in CONFIG_MAPPING
        if "auto_map" in part and not known:
            raise UsageError(
                f"{path}: the model is Python code of its own (auto_map in {where}), which runs "
                f"only when you say that you trust it: {TRUST}"
            )
        for key in FILES:
            if _outside(str(part.get(key, "a"))):
                raise UsageError(
                    f"{path}: {key} in {where} is {quoted(part[key])}, which is not in the folder; "
                    "only files of the folder are read"
                )
        for key in _KERNELS:
            if "/" in str(part.get(key)):
                raise UsageError(
                    f"{path}: {key} in {where} is {quoted(part[key])}: kernels that would be "
                    f"fetched and run. Remove the entry, or, if you trust the folder, pass {TRUST}"
                )


def _objects(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All JSON objects in ``value``, each with its place."""
    if isinstance(value, dict):
        yield where, value
        for key, inner in value.items():
            yield from _objects(inner, f"{key} of {where}")
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner, where)


def check_named_classes(path: Path, content: Mapping[str, Any], where: str) -> None:
    """Refuse classes of transformers that are none of what a key of ``content`` says.

    Names that transformers does not have are none of its own.

    Raises:
        UsageError: ``content``, that of the file ``where``, names such a class.
    """
    import transformers

    for inside, part in _objects(content, where):
        for key, (what, base) in NAMED.items():
            name = part.get(key)
            with quiet_libraries():
                kind = getattr(transformers, name, None) if isinstance(name, str) else None
            stands_in = getattr(kind, "is_dummy", False)  # something that it needs is missing
            fits = isinstance(kind, type) and issubclass(kind, getattr(transformers, base))
            known = kind is not None and not stands_in
            if name is not None and (not isinstance(name, str) or (known and not fits)):
                raise UsageError(
                    f"{path}: {key} in {inside} is {quoted(name)}, which is no {what} of "
                    f"transformers here; give the folder its model's own {what} files"
                )


def check_shards(path: Path, index: str, shards: Any) -> list[str]:
    """The files that ``weight_map`` of an index names, each once.

    Raises:
        UsageError: one lies outside of the folder, or the map is none.
    """
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise UsageError(f"{path / index}: weight_map is no map from names to files")
    for shard in shards.values():
        if _outside(shard):
            raise UsageError(
                f"{path / index}: names the file {quoted(shard)}, which is not in the folder; "
                "only files of the folder are read"
            )
    return sorted(set(shards.values()))


def _outside(name: str) -> bool:
    """Whether a file of this name may lie outside of the folder that names it."""
    parts, windows = PurePosixPath(name).parts, PureWindowsPath(name)
    rooted = name.startswith("/") or windows.drive or windows.root or "\\" in name
    return bool(rooted) or ".." in parts or not parts
