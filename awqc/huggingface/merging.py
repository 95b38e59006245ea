"""An adapter merged into its base: a Hugging Face folder of its own, as any other from then on.

The weights are written one after another, so that one of them is in memory at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from awqc.artifacts.json_files import read_json
from awqc.artifacts.safetensors_file import Unwritten, write_safetensors
from awqc.artifacts.scratch import ScratchFolder
from awqc.errors import CaptureError, UsageError, spelled
from awqc.huggingface.adapter import BY_PEFT, CONFIG, Adapter, Update, named_base
from awqc.huggingface.folder import (
    ADAPTERS,
    INDEXES,
    WEIGHTS,
    HFFolder,
    reporting,
    require_transformers,
)
from awqc.huggingface.mapped import SUFFIX
from awqc.huggingface.runner_files import PROCESSING_FILES
from awqc.huggingface.sentence_files import copy_sentence_files
from awqc.huggingface.tasks import find_task
from awqc.huggingface.trust import check_shards

HEAVY = (".safetensors", ".bin", ".index.json", ".gguf", ".onnx", ".h5", ".msgpack", ".pt", ".pth")
"""Endings of files that are not taken over: weights, which are written anew, in any form."""


Unary = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pair:
    """An adapter's folder and that of its base.

    Attributes:
        base: the folder of the base model.
        adapter: the folder of the adapter.
        named: whether the base is the one that the adapter's own file names.
    """

    base: Path
    adapter: Path
    named: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how they came together."""
        name = named_base(self.adapter)
        if self.named:
            return (f"{self.adapter}: merged into {self.base}, which {CONFIG} names as its base",)
        if name is not None and Path(name).name != self.base.resolve().name:
            return (f"{self.adapter}: merged into {self.base}; {CONFIG} names {name} as its base",)
        return ()


def find_pair(model: Path, adapter: str | Path | None, *, trust_remote_code: bool) -> Pair | None:
    """``model`` and the ``adapter`` that is given; or the folder of an adapter and its base.

    The base of an adapter alone is the folder that its configuration names, if there is one here.

    Raises:
        UsageError: there is no adapter, or its base is not here.
    """
    if adapter is not None:
        folder = Path(adapter).expanduser()
        if not (folder / CONFIG).is_file():
            raise UsageError(f"{folder}: has no {CONFIG}; {spelled('adapter')} is its folder")
        if not (model / "config.json").is_file():
            raise UsageError(
                f"{model}: has no config.json; {spelled('adapter')} is merged into a Hugging Face "
                "folder"
            )
        return Pair(model, folder, named=False)
    if not (model / CONFIG).is_file() or (model / "config.json").is_file():
        return None
    name = named_base(model)
    base = None if name is None else _local(model, name)
    if base is None or trust_remote_code:
        given = f"give the base's folder as MODEL, and this one as {spelled('adapter', str(model))}"
        why = (
            f"Python files of {base}, which {CONFIG} names, are not run"
            if base is not None
            else f"its base, {name or 'which it does not name'}, is not here"
        )
        raise UsageError(f"{model}: holds an adapter, and {why}: {given}; or {BY_PEFT}")
    return Pair(base, model, named=True)


def _local(adapter: Path, name: str) -> Path | None:
    """The folder ``name``, from that of the adapter or from here; never one of another machine."""
    if name.startswith(("\\\\", "//")):
        return None
    for folder in (adapter / name, Path(name)):
        if (folder / "config.json").is_file() and folder.resolve() != adapter.resolve():
            return folder
    return None


def merged_folder(pair: Pair, *, trust_remote_code: bool = False) -> Path:
    """The folder of the merged model, kept as long as this process lives.

    Raises:
        UsageError: the adapter is of a kind not known here, or another model's.
        CaptureError: a file is damaged.
    """
    stamps = tuple(
        (file.name, file.stat().st_mtime_ns, file.stat().st_size)
        for folder in (pair.base, pair.adapter)
        for file in sorted(folder.iterdir())
        if file.is_file()
    )
    scratch = _merged(pair.base.resolve(), pair.adapter.resolve(), trust_remote_code, stamps)
    return scratch.path / pair.adapter.resolve().name


@cache
def _merged(base: Path, adapter: Path, trust_remote_code: bool, stamps: object) -> ScratchFolder:
    require_transformers()
    source = HFFolder(base, trust_remote_code=trust_remote_code)
    source.check_base()
    own, scratch = Adapter.read(adapter), ScratchFolder()
    target = scratch.path / adapter.name
    target.mkdir()
    for file in base.iterdir():
        if file.is_file() and not file.name.endswith(HEAVY) and file.name not in ADAPTERS:
            shutil.copyfile(file, target / file.name)
    copy_sentence_files(base, target)
    if any(adapter.glob("tokenizer*")):
        for pattern in PROCESSING_FILES:
            for file in adapter.glob(pattern):
                shutil.copyfile(file, target / file.name)
    stored = [dict(_stored(file)) for file in _files_of(base)]
    names = [name for each in stored for name in each]
    _write_weights(stored, _Changes(own, _layers(source), base, names), target)
    return scratch


def _layers(source: HFFolder) -> dict[str, nn.Module]:
    """The layers of the base by their paths, without weights."""
    config = source.config()
    kind = find_task(config, None, where=str(source.path)).load_class()
    with reporting(f"{source.path}: the model could not be built"), torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=source.trust_remote_code)
    return dict(model.named_modules())


@dataclass(frozen=True)
class Renaming:
    """How names of the adapter become names of the base: one may have a prefix more."""

    cut: str = ""
    put: str = ""

    def __call__(self, name: str) -> str | None:
        """The base's name; None where ``name`` is outside of what is cut off."""
        return self.put + name.removeprefix(self.cut) if name.startswith(self.cut) else None

    @classmethod
    def between(cls, names: Collection[str], there: Collection[str]) -> Renaming:
        """The simplest by which most of ``names`` are among those ``there``."""
        known = set(there)
        candidates = [cls()]
        if names:
            first = min(names)
            places = (at for at, letter in enumerate(first, 1) if letter == ".")
            candidates += [cls(cut=first[:at]) for at in places]
            longer = (name for name in there if name.endswith(f".{first}"))
            candidates += [cls(put=name.removesuffix(first)) for name in longer]
        return max(candidates, key=lambda way: sum(way(name) in known for name in names))


class _Changes:
    """What becomes of the tensors of a base, by their names in its files.

    Raises:
        UsageError: the base has no such layer, or no tensor of its own for it.
    """

    def __init__(
        self, adapter: Adapter, layers: Mapping[str, nn.Module], base: Path, names: Sequence[str]
    ) -> None:
        self._adapter, self._layers, self._base = adapter, layers, base
        self._names = set(names)
        weights = [f"{layer}.weight" for layer in adapter.updates] or list(adapter.whole)
        self._stored = Renaming.between(weights, names)
        paths = [name.rpartition(".")[0] for name in weights]
        self._built = Renaming.between(paths, layers)
        self.found: dict[str, Unary] = {}
        self.added: dict[str, Tensor] = {}
        for name, value in adapter.whole.items():
            own = self._stored(name)
            if own in self._names:
                self._add(own, partial(_instead, f"{adapter.path}: {name}", value))
            elif self._is_built(name):
                raise UsageError(self._shares(name))
            else:
                self.added[name] = value
        for layer, update in adapter.updates.items():
            turned = self._is_transposed(layer)
            self._add(self._place(f"{layer}.weight"), partial(_updated, update, turned))
            if update.bias is not None:
                self._add(self._place(f"{layer}.bias"), partial(_more_bias, update))

    def _add(self, name: str, change: Unary) -> None:
        """Let ``change`` follow what becomes of the tensor already."""
        self.found[name] = partial(_one_after_another, self.found.get(name), change)

    def _is_transposed(self, layer: str) -> bool:
        """Whether the weight of a layer is ``(in, out)``: not so of those of torch."""
        module = self._layers.get(self._built(layer) or "")
        plain = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        return module is not None and not isinstance(module, plain)

    def _is_built(self, name: str) -> bool:
        return self._built(name.rpartition(".")[0]) in self._layers

    def _place(self, name: str) -> str:
        own = self._stored(name)
        if own in self._names:
            return own
        if self._is_built(name):
            raise UsageError(self._shares(name))
        raise UsageError(
            f"{self._adapter.path}: changes {name}, which the model in {self._base} does not have: "
            f"the adapter was trained on another model ({self._adapter.base or 'it names none'})"
        )

    def _shares(self, name: str) -> str:
        return (
            f"{self._adapter.path}: changes {name}, which the model in {self._base} has no tensor "
            f"of its own for: it is shared with another layer; {BY_PEFT}"
        )


def _one_after_another(first: Unary | None, second: Unary, value: Tensor) -> Tensor:
    return second(value if first is None else first(value))


def _updated(update: Update, transposed: bool, weight: Tensor) -> Tensor:
    return update.apply(weight, transposed)


def _more_bias(update: Update, bias: Tensor) -> Tensor:
    assert update.bias is not None, update.name
    if update.bias.shape != bias.shape:
        raise UsageError(
            f"{update.name}: its bias is {list(update.bias.shape)}, the base's {list(bias.shape)}: "
            "the adapter was trained on another model"
        )
    return (bias.float() + update.scale * update.bias.float()).to(bias.dtype)


def _instead(name: str, value: Tensor, old: Tensor) -> Tensor:
    if value.shape != old.shape:
        raise UsageError(
            f"{name} is {list(value.shape)}, the base's {list(old.shape)}; give a base of these "
            f"sizes, or {BY_PEFT}"
        )
    return value.to(old.dtype)


def _files_of(base: Path) -> list[Path]:
    """The files of the base's weights, as transformers would choose them."""
    for whole, index in zip(WEIGHTS, INDEXES, strict=True):
        if (base / whole).is_file():
            return [base / whole]
        if (base / index).is_file():
            weight_map = read_json(base / index).get("weight_map")
            return [base / name for name in check_shards(base, index, weight_map)]
    return []


def _write_weights(
    stored: Sequence[Mapping[str, Unwritten]], changes: _Changes, target: Path
) -> None:
    """Write a file for each of ``stored``, with ``changes``, and an index if there are several."""
    place: dict[str, str] = {}
    for number, each in enumerate(stored, 1):
        several = len(stored) > 1
        name = f"model-{number:05}-of-{len(stored):05}.safetensors" if several else WEIGHTS[0]
        unwritten = {
            tensor: _with(value, changes.found.get(tensor)) for tensor, value in each.items()
        }
        if number == len(stored):
            added = changes.added.items()
            unwritten |= {tensor: Unwritten.of(value) for tensor, value in added}
        try:
            write_safetensors(unwritten, target / name, {"format": "pt"})
        except OSError as error:
            raise CaptureError(
                f"{target}: the merged weights could not be written: {error.strerror or error}; "
                "make room there, or name another folder in the environment variable TMPDIR"
            ) from error
        place |= dict.fromkeys(unwritten, name)
    if len(stored) > 1:
        index = json.dumps({"metadata": {}, "weight_map": place})
        (target / INDEXES[0]).write_text(index, encoding="utf-8")


def _with(value: Unwritten, change: Unary | None) -> Unwritten:
    if change is None:
        return value
    return Unwritten(value.dtype, value.shape, lambda: change(value.make()))


def _stored(file: Path) -> Iterator[tuple[str, Unwritten]]:
    """The tensors of a file, each read when it is written."""
    with reporting(f"{file}: the weights could not be read"):
        if not file.name.endswith(SUFFIX):
            loaded: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            yield from ((name, Unwritten.of(value)) for name, value in loaded.items())
            return
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                shape = tuple(opened.get_slice(name).get_shape())
                dtype = opened.get_tensor(name).dtype  # which maps the tensor and reads none of it
                yield name, Unwritten(dtype, shape, partial(_one, file, name))


def _one(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
        return tensor
