"""A local Hugging Face folder (or GGUF file): what is in it, checked before it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from awqc.artifacts.json_files import read_json
from awqc.errors import CaptureError, UsageError, spelled
from awqc.huggingface.mapped import main_dtype, map_each
from awqc.huggingface.skeleton import in_float32
from awqc.huggingface.trust import (
    TRUST,
    check_config,
    check_kinds,
    check_named_classes,
    check_shards,
    nothing_to_read,
)
from awqc.machine.process import quiet_libraries
from awqc.program import Origin, Program

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
INDEX = "*.index.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
TOKENIZER_CONFIG = "tokenizer_config.json"
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class HFFolder(Origin):
    """A folder, or GGUF file, with what can be loaded from it."""

    @classmethod
    def of(cls, program: Program) -> HFFolder:
        """The folder that ``program`` was captured from; it must have one."""
        assert program.task.origin is not None, program.name
        return cls(**vars(program.task.origin))

    @classmethod
    def at(
        cls, path: Path, *, gguf_file: str | None = None, trust_remote_code: bool = False
    ) -> HFFolder:
        """The folder at ``path``, which may also be a GGUF file; nothing is loaded yet.

        Raises:
            UsageError: a file is missing or unreadable, or transformers is not installed.
            CaptureError: the model is quantized already.
        """
        if path.is_file():
            path, gguf_file = path.parent, path.name
        elif gguf_file is None and not (path / "config.json").is_file():
            files = sorted(file.name for file in path.glob("*.gguf"))
            gguf_file = files[0] if len(files) == 1 else None
        folder = cls(path, gguf_file, trust_remote_code)
        require_transformers()
        folder.check()
        return folder

    @property
    def name(self) -> str:
        """Name of the model, for messages and files."""
        return Path(self.gguf_file).stem if self.gguf_file else self.path.resolve().name

    def options(self) -> dict[str, Any]:
        """Keyword arguments for the ``from_pretrained`` of configs, models and tokenizers."""
        options: dict[str, Any] = {
            "local_files_only": True,
            "trust_remote_code": self.trust_remote_code,
        }
        if self.gguf_file:
            options["gguf_file"] = self.gguf_file
        return options

    def check(self) -> None:
        """Refuse a folder that cannot be loaded; see `at`."""
        if self.gguf_file:
            if not (self.path / self.gguf_file).is_file():
                raise UsageError(f"{self.path / self.gguf_file}: no such GGUF file")
            return
        check_no_adapter(self.path)
        self.check_base()

    def check_base(self) -> None:
        """As `check`, where the files of an adapter may lie beside the model's."""
        config = read_json(self.path / "config.json")
        check_kinds(self.path, config)
        _check_not_quantized(self.path, config)
        _check_weights(self.path)
        if not self.trust_remote_code:
            check_config(self.path, config)

    def config(self) -> Any:
        """The model's configuration.

        Raises:
            UsageError: a value is of another type.
            CaptureError: transformers does not know the architecture.
        """
        from transformers import AutoConfig

        if not self.gguf_file:
            check_kinds(self.path, read_json(self.path / "config.json"))
        with reporting(f"{self.path}: the configuration could not be read"):
            if self.gguf_file:
                state = (self.path / self.gguf_file).stat()
                return deepcopy(_config_in_gguf(self, state.st_mtime_ns, state.st_size))
            return AutoConfig.from_pretrained(self.path, **self.options())

    def model(self, auto_class: Any) -> tuple[Any, list[str]]:
        """The float model, in float32 and eval mode, and tensors that it has no place for.

        Safetensors stay in their file: those in half precision are `Narrow`.

        Raises:
            CaptureError: transformers could not load it, or tensors are missing.
        """
        dtype = torch.float32 if self.gguf_file else main_dtype(self.path)
        known = {"config": self.config()} if self.gguf_file else {}
        with reporting(f"{self.path}: the model could not be loaded"):
            model, info = auto_class.from_pretrained(
                self.path,
                dtype=dtype,
                output_loading_info=True,
                weights_only=True,
                **known,
                **self.options(),
            )
        missing = sorted(info["missing_keys"])
        if missing:
            raise CaptureError(
                f"{self.path}: {len(missing)} tensors of {type(model).__name__} are not in the "
                f"weights ({', '.join(missing[:3])}…); they would be random. Complete the "
                f"folder, or give the task that the weights were made for ({spelled('task')})"
            )
        if dtype is not torch.float32:
            with reporting(f"{self.path}: the model could not be made in float32"):
                model = in_float32(model)
        map_each(model, self.path)
        return model.eval(), sorted(info["unexpected_keys"])

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are files of a tokenizer, as far as their names say."""
        return bool(self.gguf_file) or any((self.path / name).is_file() for name in TOKENIZERS)

    def tokenizer(self, vocab_size: int | None = None) -> Any:
        """The tokenizer, checked against the number of embeddings that the model has.

        Raises:
            UsageError: there is none, it cannot be read, or it is another model's.
        """
        from transformers import AutoTokenizer

        if not self.has_tokenizer:
            raise UsageError(
                f"{self.path}: no tokenizer ({', '.join(TOKENIZERS[:4])}, …) is in the folder; "
                "copy the model's tokenizer files into it"
            )
        tokenizer = self.read_processing(AutoTokenizer, "tokenizer", [TOKENIZER_CONFIG])
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if largest < 0 or (vocab_size is not None and largest >= vocab_size):
            raise UsageError(
                f"{self.path}: the tokenizer's largest token id is {largest}, but the model has "
                f"{vocab_size} embeddings: it belongs to another model"
            )
        return tokenizer

    def read_processing(self, auto_class: Any, what: str, files: Sequence[str]) -> Any:
        """What ``auto_class`` makes of ``files``, which say how data becomes a model's inputs.

        Raises:
            UsageError: it cannot be read, or is Python code that nobody trusts.
        """
        if not self.trust_remote_code:
            for name in ("config.json", *files):
                if (self.path / name).is_file():
                    check_named_classes(self.path, read_json(self.path / name), name)
        try:
            with reporting(f"{self.path}: the {what} could not be read"):
                return auto_class.from_pretrained(self.path, **self.options())
        except CaptureError as error:
            if "trust_remote_code" in str(error.__cause__):
                raise UsageError(
                    f"{self.path}: the {what} is Python code of its own (auto_map in "
                    f"{' or '.join(files)}), which runs only when you say that you trust it: "
                    f"{TRUST}"
                ) from error
            raise UsageError(
                f"{error.text}; copy the model's {what} files into the folder"
            ) from error


@lru_cache(maxsize=1)
def _config_in_gguf(source: HFFolder, changed: int, size: int) -> Any:
    """The configuration in a GGUF file, last changed then: each reading parses all its words."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source.path, **source.options())


def require_transformers() -> None:
    """Raise UsageError with the way to install it where transformers is missing."""
    try:
        import transformers  # noqa: F401  whether it can be
    except ImportError:
        raise UsageError(
            "Hugging Face folders are read through transformers, which is not installed: "
            "pip install 'awqc[hf]'"
        ) from None


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Turn whatever transformers and its readers raise into a CaptureError, quietly.

    They may ask nothing meanwhile: standard input is at its end.
    """
    try:
        with quiet_libraries(), nothing_to_read():
            yield
    except CaptureError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else "no message"
        raise CaptureError(f"{what}: {type(error).__name__}: {reason}") from error


def check_no_adapter(path: Path) -> None:
    """Refuse weights that are meant to be added to others: alone, or beside their base model.

    Raises:
        UsageError: with what to do.
    """
    found = next((name for name in ADAPTERS if (path / name).is_file()), None)
    if found is not None:
        raise UsageError(
            f"{path}: holds an adapter ({found}), which is not part of the model's weights and "
            "may name other files and modules. To have it merged, give the base's folder as MODEL "
            f"and the adapter's as {spelled('adapter', str(path))}; or merge it with peft "
            "(PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(...)) and "
            "give that folder; if the base model alone is meant, move the adapter's files away"
        )


def _check_not_quantized(path: Path, config: dict[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if quantization is None:
        return
    if not isinstance(quantization, dict):
        raise UsageError(
            f"{path}: quantization_config in config.json is a {type(quantization).__name__}; an "
            "object is needed"
        )
    method = quantization.get("quant_method", "an unnamed method")
    bits = quantization.get("bits") or quantization.get("w_bit")
    raise CaptureError(
        f"{path}: already quantized by {method}{f' to {bits} bits' if bits else ''} "
        "(quantization_config in config.json); start from the model's float weights"
    )


def _check_weights(path: Path) -> None:
    shards_of = {
        file.name: check_shards(path, file.name, read_json(file).get("weight_map", {}))
        for file in sorted(path.glob(INDEX))
    }
    for name in INDEXES:
        if name in shards_of:
            shards = shards_of[name]
            lost = [shard for shard in shards if not (path / shard).is_file()]
            if lost or not shards:
                raise UsageError(
                    f"{path}: {name} names {len(shards)} files, {len(lost)} of which are missing "
                    f"({', '.join(lost[:3])}); fetch them again"
                )
            return
    if not any((path / name).is_file() for name in WEIGHTS):
        if (path / "recipe.json").is_file() and (path / "report.json").is_file():
            raise UsageError(
                f"{path}: was compiled by awqc already; start from the model's float weights"
            )
        found = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"; for {found[0]} give its path itself" if found else ""
        raise UsageError(f"{path}: no weights ({' or '.join(WEIGHTS)}) are in the folder{hint}")
