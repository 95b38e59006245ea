"""``session.json``: what the sessions of the model beside it set, and what it may say.

    {"config": {KEY: VALUE},                              # for every provider
     "providers": {"cuda": {"config": {}, "options": {}}}}  # for one, with its own options

onnxruntime has settings that write to files that they name, load libraries, or read weights from
elsewhere. The file is part of the model, so only keys that do nothing of that are taken, with
values out of a range.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from awqc.errors import UsageError

SETTINGS = "session.json"
ACCURACY_LEVEL = "session.qdq_matmulnbits_accuracy_level"
FPA_INTB = "ep.cuda.fpa_intb_gemm"

_FLAG = ("0", "1")
CONFIG: Mapping[str, tuple[str, ...]] = {
    ACCURACY_LEVEL: ("0", "1", "2", "3", "4"),
    FPA_INTB: tuple(str(number) for number in range(16)),
    "session.disable_prepacking": _FLAG,
    "session.enable_dq_matmulnbits_fusion": _FLAG,
    "session.inter_op.allow_spinning": _FLAG,
    "session.intra_op.allow_spinning": _FLAG,
    "session.set_denormal_as_zero": _FLAG,
}
"""Session config entries that a file may set, and their values."""

OPTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cpu": {},
    "cuda": {
        "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
        "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
        "cudnn_conv_use_max_workspace": _FLAG,
        "do_copy_in_default_stream": _FLAG,
        "prefer_nhwc": _FLAG,
        "use_tf32": _FLAG,
    },
}
"""Options of each provider that a file may set, and their values."""


@dataclass(frozen=True)
class Settings:
    """What a session sets.

    Attributes:
        config: session config entries.
        options: options of the provider.
    """

    config: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


def read_settings(model: Path, provider: str) -> Settings:
    """What ``session.json`` beside ``model`` says for ``provider`` (``cpu`` or ``cuda``).

    All of the file is checked, also what it says for other providers.

    Raises:
        UsageError: the file does not read like that, or sets what it may not.
    """
    path = model.with_name(SETTINGS)
    if not path.is_file():
        return Settings()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no file of session settings: {error}") from error
    top = _table(path, content, ("config", "providers"), "the file")
    config = _checked(path, top.get("config", {}), CONFIG, "config")
    chosen = Settings(config)
    for name, own in _table(path, top.get("providers", {}), tuple(OPTIONS), "providers").items():
        where = f"providers, {name}"
        parts = _table(path, own, ("config", "options"), where)
        more = _checked(path, parts.get("config", {}), CONFIG, f"{where}, config")
        options = _checked(path, parts.get("options", {}), OPTIONS[name], f"{where}, options")
        if name == provider:
            chosen = Settings({**config, **more}, options)
    return chosen


def _table(path: Path, value: Any, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """``value``, which is an object that has no other keys than ``keys``."""
    if not isinstance(value, dict):
        raise UsageError(
            f"{path}: is no file of session settings: {where} is a {type(value).__name__}; an "
            f"object is needed"
        )
    for key in value:
        if key not in keys:
            raise UsageError(
                f"{path}: {where} has the key {key!r}; known are {', '.join(keys)}. {_ADVICE}"
            )
    return value


def _checked(
    path: Path, value: Any, known: Mapping[str, tuple[str, ...]], where: str
) -> dict[str, str]:
    """Settings as onnxruntime takes them, where each is known and in its range."""
    settings = {}
    for key, setting in _table(path, value, tuple(known), where).items():
        text = str(int(setting)) if isinstance(setting, bool | int) else setting
        if text not in known[key]:
            raise UsageError(
                f"{path}: {where}: {key} is {setting!r}; it can be {', '.join(known[key])}. "
                f"{_ADVICE}"
            )
        settings[key] = text
    return settings


_ADVICE = (
    "A setting could make onnxruntime write to files or load code; open the model with "
    "onnxruntime itself to set others"
)
