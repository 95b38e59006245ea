"""The files by which sentence-transformers takes a folder: how vectors of tokens become one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from awqc.artifacts.json_files import Object, read_objects
from awqc.errors import UsageError
from awqc.huggingface.folder import WEIGHTS

MODULES = "modules.json"
SETTINGS = ("config_sentence_transformers.json", "sentence_bert_config.json")
OF_A_MODULE = ("*config.json", *WEIGHTS)
"""Patterns; some modules put their name before that of their configuration."""
SENTENCE = "sentence_embedding"
"""The one vector of a text, among what is known of it."""
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How older versions write a mode; several are joined in this order."""


def copy_sentence_files(folder: Path, target: Path) -> None:
    """Copy them from ``folder`` into ``target``, where there are any.

    Raises:
        UsageError: a file is damaged, or names a folder outside.
    """
    for file in sentence_files(folder):
        copied = target / file.relative_to(folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)


def sentence_files(folder: Path) -> Iterator[Path]:
    """The files; those of the first module are the model's own."""
    path = folder / MODULES
    if not path.is_file():
        return
    yield path
    yield from (folder / name for name in SETTINGS if (folder / name).is_file())
    for entry in read_objects(path)[1:]:
        place = module_folder(folder, entry)
        yield from (file for name in OF_A_MODULE for file in sorted(place.glob(name)))


def check_begins_with_model(folder: Path) -> None:
    """Refuse a folder of sentence-transformers without a model of transformers at its top.

    Raises:
        UsageError: it begins with something else, or its model lies further inside.
    """
    path = folder / MODULES
    if not path.is_file() or not (modules := read_objects(path)):
        return
    place = module_folder(folder, modules[0])
    if place != folder and (place / "config.json").is_file():
        raise UsageError(
            f"{folder}: its model lies in {place.name}, as older versions of sentence-transformers "
            f"wrote it. Compile {place}, or load and save the folder with a newer version"
        )
    raise UsageError(
        f"{path}: begins with {modules[0].get('type')}, which is no model of transformers; "
        "sentence-transformers runs the folder"
    )


def module_config(place: Path) -> Object:
    """The configuration of the module there; an empty one, if it has none.

    Raises:
        UsageError: it is damaged.
    """
    found = sorted(place.glob(OF_A_MODULE[0]))
    return Object.of(found[0]) if found else Object({}, str(place))


def module_folder(folder: Path, entry: Any) -> Path:
    """Where the files of a module lie, of which ``entry`` is that in ``modules.json``.

    Raises:
        UsageError: it is none, or lies outside of ``folder``.
    """
    name = entry.get("path") if isinstance(entry, Mapping) else None
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UsageError(f"{folder / MODULES}: {entry!r} names no folder of a module")
    return folder / name


def pooling_modes(place: Path) -> tuple[str, ...]:
    """The modes that the configuration of the module there asks for, whose results are joined.

    Raises:
        UsageError: there is none, it is damaged, or it asks for a mode that is not known.
    """
    if not any(place.glob(OF_A_MODULE[0])):
        raise UsageError(f"{place}: has no config.json, which says how tokens are pooled")
    content = module_config(place)
    found = content.listed("pooling_mode", str)
    if not found:
        found = [mode for flag, mode in FLAGS.items() if content.get(flag, bool, False)] or ["mean"]
    for mode in found:
        if mode not in FLAGS.values():
            known = ", ".join(FLAGS.values())
            raise UsageError(f"{content.where}: the pooling {mode!r} is not known: {known} are")
    return tuple(found)


def read_and_written(config: Object) -> tuple[str, str]:
    """What a module reads of what is known of a text, and what it writes."""
    source = config.get("module_input_name", str, SENTENCE)
    return source, config.optional("module_output_name", str) or source
