"""A low-rank adapter (LoRA) as peft saves it: what it adds to which weight of its base model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from awqc.artifacts.json_files import Object
from awqc.errors import CaptureError, UsageError

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
LINEAR, EMBEDDING = ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")
BIAS, MAGNITUDE = "lora_B.bias", ("lora_magnitude_vector", "lora_magnitude_vector.weight")
LORA = re.compile(r"(?P<path>.+?)\.(?P<leaf>lora_.+)")
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to begin training that leave the base's weights as they are."""
REFUSED = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication",
    "megatron_config", "monteclora_config", "target_parameters",
    "trainable_token_indices", "use_bdlora", "use_qalora",
)  # fmt: skip
"""Options of peft by which an adapter does something else than add to weights of layers."""
BY_PEFT = (
    "merge it with peft, PeftModel.from_pretrained(base, adapter).merge_and_unload()"
    ".save_pretrained(...), and give that folder"
)


@dataclass(frozen=True)
class Update:
    """What an adapter does to the weight of one layer.

    Attributes:
        name: of the adapter's first matrix, for messages.
        down: ``A``, ``(rank, in, …)``; of an embedding ``(rank, rows)``.
        up: ``B``, ``(out, rank, …)``; of an embedding ``(width, rank)``.
        scale: what their product is multiplied with.
        magnitude: lengths of the rows of the new weight, if the adapter has some (DoRA).
        embedding: whether the layer looks up rows.
        bias: what the layer's bias gets more, before ``scale``.
    """

    name: str
    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None
    embedding: bool = False
    bias: Tensor | None = None

    def apply(self, weight: Tensor, transposed: bool) -> Tensor:
        """``weight`` with the update, computed in float32, in its own dtype.

        ``W + s B A``, and with magnitudes ``m (W + s B A) / |W + s B A|`` a row. Where
        ``transposed``, ``weight`` is ``(in, out)``.

        Raises:
            UsageError: the update is for a weight of another shape.
        """
        turned = transposed != self.embedding
        shape = tuple(weight.t().shape if turned else weight.shape)
        product = self.up.flatten(1).float() @ self.down.flatten(1).float()
        if product.numel() != weight.numel() or product.shape[0] != shape[0]:
            raise UsageError(
                f"{self.name}: makes {list(product.shape)} with its partner, but the base's weight "
                f"is {list(shape)}: the adapter was trained on another model"
            )
        made = product.mul_(self.scale).reshape(shape)
        made += (weight.t() if turned else weight).float()
        if self.magnitude is not None:
            lengths = torch.linalg.vector_norm(made.flatten(1), dim=1)
            factors = self.magnitude.float().flatten() / lengths
            made *= factors.reshape(-1, *[1] * (made.ndim - 1))
        return (made.t() if turned else made).to(weight.dtype).contiguous()


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        path: its folder.
        base: the model that it was trained on, as its configuration names it.
        updates: by the path of the layer in the base model.
        whole: tensors that take the place of the base's, by name.
    """

    path: Path
    base: str | None
    updates: dict[str, Update] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Adapter:
        """The adapter in the folder ``path``; nothing that its configuration names is imported.

        Raises:
            UsageError: a file is missing, or it is no LoRA adapter, or of a kind not known here.
            CaptureError: its weights are damaged.
        """
        content = Object.of(path / CONFIG)
        base = content.optional("base_model_name_or_path", str)
        tensors = {name.removeprefix(PREFIX): value for name, value in _read_weights(path).items()}
        kind = content.get("peft_type", str, "")
        if kind != "LORA":
            raise UsageError(
                f"{path}: holds an adapter of the kind {kind or 'that is not named'}; LoRA is "
                f"merged here. Where the kind can be merged, {BY_PEFT}"
            )
        _check_plain(path, content)
        made = cls(path, base)
        layers: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if found := LORA.fullmatch(name):
                layers.setdefault(found["path"], {})[found["leaf"]] = value
            else:
                plain = name.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
                made.whole[plain] = value
        for layer, given in layers.items():
            made.updates[layer] = _update(path, content, layer, given)
        if not made.updates and not made.whole:
            raise UsageError(f"{path}: the adapter's weights are empty; fetch them again")
        return made


def named_base(path: Path) -> str | None:
    """The model that the adapter in ``path`` says it was trained on."""
    name: str | None = Object.of(path / CONFIG).optional("base_model_name_or_path", str)
    return name or None


def _check_plain(path: Path, content: Object) -> None:
    """Refuse what changes more than weights, or other weights than those that are in the base.

    Raises:
        UsageError: there is something of that.
    """
    for key in REFUSED:
        if content.content.get(key):
            raise UsageError(
                f"{path}: the adapter has {key}, which is more than an addition to weights; "
                f"{BY_PEFT}, if it can be merged"
            )
    start = content.content.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise UsageError(
            f"{path}: the adapter's training began with init_lora_weights={start!r}, which changes "
            f"the base's weights; {BY_PEFT}"
        )


def _read_weights(path: Path) -> dict[str, Tensor]:
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise UsageError(
            f"{path}: holds an adapter without its weights ({' or '.join(WEIGHTS)}); fetch them"
        )
    try:
        if file.name == WEIGHTS[0]:
            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CaptureError(f"{file}: is damaged: {error}; fetch it again") from error
    except Exception as error:
        raise CaptureError(
            f"{file}: could not be loaded as tensors alone: {type(error).__name__}; it is damaged, "
            "or holds other objects"
        ) from error
    named = isinstance(loaded, Mapping) and all(isinstance(v, Tensor) for v in loaded.values())
    if not named:
        raise CaptureError(f"{file}: holds no dict of tensors by name; fetch it again")
    return {str(name): value for name, value in loaded.items()}


def _update(path: Path, content: Object, layer: str, given: Mapping[str, Tensor]) -> Update:
    """The update of one layer.

    Raises:
        UsageError: a matrix is missing or unknown, or the rank is another than configured.
    """
    embedding = any(name in given for name in EMBEDDING)
    names = EMBEDDING if embedding else LINEAR
    magnitude = next((given[name] for name in MAGNITUDE if name in given), None)
    lacking = [name for name in names if name not in given]
    other = sorted({*given} - {*names, *MAGNITUDE, *(() if embedding else (BIAS,))})
    if lacking or other or (embedding and magnitude is not None):
        what = f"has no {lacking[0]}" if lacking else f"has {(other or MAGNITUDE)[0]}"
        raise UsageError(
            f"{path}: the adapter {what} for {layer}, which is not known here; fetch its weights "
            f"again, or {BY_PEFT}"
        )
    down, up = (given[name] for name in names)
    rank = _of_layer(path, content, "rank_pattern", layer, content.get("r", int, 8))
    alpha = _of_layer(path, content, "alpha_pattern", layer, content.get("lora_alpha", float, 8))
    name = f"{path}: {layer}.{names[0]}"
    if down.ndim < 2 or up.ndim < 2 or not down.shape[0] == up.shape[1] == rank:
        raise UsageError(
            f"{name} is {list(down.shape)} and its partner {list(up.shape)}, but {CONFIG} says "
            f"rank {rank}: the two files do not belong together"
        )
    scale = alpha / (math.sqrt(rank) if content.get("use_rslora", bool, False) else rank)
    return Update(name, down, up, scale, magnitude, embedding, given.get(BIAS))


def _of_layer(path: Path, content: Object, key: str, layer: str, usual: float) -> Any:
    """What ``key`` says of ``layer``: a map of patterns that fit the end of its path."""
    patterns = content.optional(key, dict) or {}
    for pattern, value in patterns.items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", layer)
        except re.error as error:
            raise UsageError(f"{path / CONFIG}: {key} has {pattern!r}: {error}") from error
        if found:
            if type(value) not in (int, float) or value <= 0:
                raise UsageError(f"{path / CONFIG}: {key} has {value!r}; a number is needed")
            return value
    return usual
