"""What follows the model in a folder of sentence-transformers, as modules of torch.

Each changes what is known of a text, by name: vectors of its tokens, or the one of all of it.
Source: the format of sentence-transformers, versions 2 to 6.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from awqc.artifacts.json_files import Object, read_objects
from awqc.errors import UsageError, spelled
from awqc.huggingface.folder import WEIGHTS, reporting
from awqc.huggingface.sentence_files import (
    MODULES,
    SENTENCE,
    module_config,
    module_folder,
    pooling_modes,
    read_and_written,
)
from awqc.huggingface.sentence_pooling import MODES
from awqc.kv_cache import MASK

ROWS, LAYERS = "token_embeddings", "all_layer_embeddings"
Known = dict[str, Any]
"""What is known of some texts, by name."""


class Pooled(nn.Module):
    """One vector of those of tokens, ``modes`` joined."""

    def __init__(self, modes: tuple[str, ...]) -> None:
        super().__init__()
        self.modes = modes

    def forward(self, known: Known) -> Known:
        """``known`` with it."""
        states = known[ROWS]
        mask = known[MASK].to(states.dtype)
        made = [MODES[mode](states, mask) for mode in self.modes]
        return {**known, SENTENCE: torch.cat(made, dim=-1)}


class Applied(nn.Module):
    """``function`` of the value called ``source``, which becomes that called ``target``."""

    def __init__(self, function: Callable[[Tensor], Tensor], source: str, target: str) -> None:
        super().__init__()
        self.function, self.source, self.target = function, source, target

    def forward(self, known: Known) -> Known:
        """``known`` with it."""
        if self.source not in known:
            raise UsageError(
                f"a module of the folder reads {self.source}, which none before it makes"
            )
        return {**known, self.target: self.function(known[self.source])}


class Unit(nn.Module):
    """Brings vectors to length 1."""

    def forward(self, x: Tensor) -> Tensor:
        """``x / |x|``."""
        return nn.functional.normalize(x, dim=-1)


class Dense(nn.Module):
    """``activation(linear(x))``, with ``x`` or a product of it added where ``residual`` says so."""

    def __init__(self, sizes: tuple[int, int], bias: bool, activation: nn.Module, adds: bool):
        super().__init__()
        self.linear = nn.Linear(*sizes, bias=bias)
        self.activation_function = activation
        self.adds = adds
        if adds and sizes[0] != sizes[1]:
            self.residual = nn.Linear(*sizes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, in)`` -> ``(…, out)``."""
        made: Tensor = self.activation_function(self.linear(x))
        if not self.adds:
            return made
        return made + (self.residual(x) if hasattr(self, "residual") else x)


class Convolved(nn.Module):
    """Vectors of tokens, each with its neighbours, by kernels of several sizes, joined."""

    def __init__(self, width: int, channels: int, kernels: list[int], strides: list[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width, channels, kernel, stride, padding=(kernel - 1) // 2)
            for kernel, stride in zip(kernels, strides, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, tokens, width)`` -> ``(batch, tokens, channels)``."""
        rows = x.transpose(1, 2)
        return torch.cat([conv(rows) for conv in self.convs], dim=1).transpose(1, 2)


class Layered(nn.Module):
    """Vectors of tokens as a weighted mean of those of several layers."""

    def __init__(self, first: int, layers: int) -> None:
        super().__init__()
        self.first = first
        self.layer_weights = nn.Parameter(torch.ones(layers + 1 - first))

    def forward(self, known: Known) -> Known:
        """``known`` with it, where those of all layers are known."""
        if LAYERS not in known:
            return known
        weights = self.layer_weights[:, None, None, None]
        stacked = torch.stack(list(known[LAYERS])[self.first :])
        made = (stacked * weights).sum(dim=0) / self.layer_weights.sum()
        return {**known, ROWS: made}


def _normalize(config: Object, place: Path) -> nn.Module:
    return Applied(Unit(), *read_and_written(config))


def _dense(config: Object, place: Path) -> nn.Module:
    made = Dense(
        (config.get("in_features", int), config.get("out_features", int)),
        config.get("bias", bool, True),
        _activation(config),
        config.get("use_residual", bool, False),
    )
    return Applied(_loaded(made, place), *read_and_written(config))


def _layer_norm(config: Object, place: Path) -> nn.Module:
    norm = nn.ModuleDict({"norm": nn.LayerNorm(config.get("dimension", int))})
    return Applied(_loaded(norm, place)["norm"], SENTENCE, SENTENCE)


def _convolved(config: Object, place: Path) -> nn.Module:
    kernels = config.items("kernel_sizes", int)
    width = "in_embedding_dimension"
    width = width if width in config.content else "in_word_embedding_dimension"
    strides = config.listed("stride_sizes", int) or [1] * len(kernels)
    made = Convolved(config.get(width, int), config.get("out_channels", int), kernels, strides)
    return Applied(_loaded(made, place), ROWS, ROWS)


def _layered(config: Object, place: Path) -> nn.Module:
    layers = config.get("num_hidden_layers", int, 12)
    made: nn.Module = _loaded(Layered(config.get("layer_start", int, 4), layers), place)
    return made


KINDS: Mapping[str, Callable[[Object, Path], nn.Module]] = {
    "Pooling": lambda config, place: Pooled(pooling_modes(place)),
    "Normalize": _normalize,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "CNN": _convolved,
    "WeightedLayerPooling": _layered,
    "Dropout": lambda config, place: nn.Identity(),
}
"""Modules by the last word of their type in ``modules.json``, made of their configuration."""


def sentence_modules(folder: Path) -> nn.Sequential:
    """What follows the model in ``folder``.

    Raises:
        UsageError: the folder says nothing of it, a file is damaged, or a module is not known.
        CaptureError: weights cannot be read.
    """
    path = folder / MODULES
    if not path.is_file():
        raise UsageError(
            f"{folder}: has no {MODULES}, which says how vectors of tokens become one; give a "
            "folder that sentence-transformers wrote, or another task"
        )
    made: list[nn.Module] = []
    for entry in read_objects(path)[1:]:
        kind, place = str(entry.get("type")).rpartition(".")[2], module_folder(folder, entry)
        if kind not in KINDS:
            raise UsageError(
                f"{path}: {entry.get('type')} follows the model, which is not known here: "
                f"{', '.join(KINDS)} are. Compile the model alone, with "
                f"{spelled('task', 'feature-extraction')}, and let sentence-transformers do "
                "the rest"
            )
        made.append(KINDS[kind](module_config(place), place))
    if not any(isinstance(each, Pooled) for each in made):
        raise UsageError(f"{path}: nothing in it makes one vector of those of tokens")
    return nn.Sequential(*made).eval()


def _activation(config: Object) -> nn.Module:
    """The class of torch that the configuration names.

    Raises:
        UsageError: it names something else, which would be code of the folder's choice.
    """
    name = config.get("activation_function", str, "torch.nn.modules.activation.Tanh")
    first, _, last = name.rpartition(".")
    found = getattr(nn, last, None) if first.startswith("torch.nn") else None
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise UsageError(f"{config.where}: {name} is no module of torch.nn, which is needed")
    made: nn.Module = found()
    return made


def _loaded(module: Any, place: Path) -> Any:
    """``module`` with the weights that lie in ``place``."""
    from safetensors.torch import load_file

    files = [place / name for name in WEIGHTS if (place / name).is_file()]
    if not files:
        raise UsageError(f"{place}: has no {' or '.join(WEIGHTS)}, the weights of this module")
    with reporting(f"{files[0]}: the weights of this module could not be read"):
        if files[0].suffix.lower() == ".bin":
            state = torch.load(files[0], map_location="cpu", weights_only=True)
        else:
            state = load_file(files[0])
        module.load_state_dict(state)
    return module.float()
