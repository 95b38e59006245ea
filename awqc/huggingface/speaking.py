"""A local folder of a model that speaks, with the vocoder in it, if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from awqc.errors import UsageError
from awqc.huggingface.folder import TOKENIZER_CONFIG, HFFolder, reporting
from awqc.huggingface.processor import PROCESSOR_FILES
from awqc.huggingface.speaker import Speaker
from awqc.huggingface.task_table import FolderTask
from awqc.recording.around import own_tensors
from awqc.recording.entries import modules_of

VOCODER = "vocoder"
"""The folder inside that has the vocoder of a model that makes spectrograms."""
AROUND = "around.safetensors"
"""Of a compiled folder: tensors of the modules around the parts, which run as they are."""


@dataclass(frozen=True)
class SpeakingFolder:
    """A folder of a model that speaks.

    Attributes:
        origin: the folder.
        task: what its model was found to be for, and how it is loaded.
        notes: what to tell of how it was found.
    """

    origin: HFFolder
    task: FolderTask
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the model, for messages and files."""
        return self.origin.name

    @property
    def vocoder(self) -> Path | None:
        """The folder of the vocoder, if there is one."""
        found = self.origin.path / VOCODER
        return found if (found / "config.json").is_file() else None

    def speaker(self) -> Speaker:
        """The model, in float32 and eval mode.

        Raises:
            UsageError: the files that make its inputs are missing, or another model's.
            CaptureError: it cannot be loaded.
        """
        vocoder = None
        if self.vocoder is not None:
            inner = HFFolder.at(self.vocoder)
            vocoder, _ = inner.model(_named_class(inner))
        model, _ = self.origin.model(self.task.load_class())
        return Speaker(str(self.origin.path), model, self._processing(), vocoder)

    def bare_speaker(self) -> Speaker:
        """The model of a compiled folder, with the values that this has beside its graphs.

        Any other tensor is NaN, or no place in a table, so that who reads it is found out.

        Raises:
            UsageError: the folder has values of another model.
            CaptureError: transformers cannot make it of the configurations in the folder.
        """
        bare, values = self._bare(), self._around()
        for path, module in modules_of(bare).items():
            for name, value in own_tensors(module).items():
                known = values.get(f"{path}.{name}")
                if known is not None and known.shape != value.shape:
                    raise UsageError(
                        f"{self.origin.path / AROUND}: {path}.{name} is {list(known.shape)}; the "
                        f"model has {list(value.shape)}: it is another model's"
                    )
                _put(module, name, _nothing(value) if known is None else known)
        return Speaker(str(self.origin.path), bare.model, self._processing(), bare.vocoder)

    def _around(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        with reporting(f"{self.origin.path / AROUND}: cannot be read"):
            found: dict[str, Tensor] = load_file(self.origin.path / AROUND)
            return found

    def _bare(self) -> SimpleNamespace:
        """The model, and its vocoder, on the device "meta"."""
        vocoder = None
        with reporting(f"{self.origin.path}: the model could not be made"), torch.device("meta"):
            model = _made(self.task.load_class(), self.origin)
            if self.vocoder is not None:
                inner = HFFolder(self.vocoder)
                vocoder = _made(_named_class(inner), inner)
        return SimpleNamespace(model=model, vocoder=vocoder)

    def _processing(self) -> dict[str, Any]:
        """The processor, where the folder has files of one, and the tokenizer.

        Raises:
            UsageError: it is missing, or cannot be read.
        """
        from transformers import AutoProcessor

        if not any((self.origin.path / name).is_file() for name in PROCESSOR_FILES):
            return {"tokenizer": self.origin.tokenizer()}
        files = [*PROCESSOR_FILES, TOKENIZER_CONFIG]
        made = self.origin.read_processing(AutoProcessor, "processor", files)
        tokenizer = getattr(made, "tokenizer", None) or self.origin.tokenizer()
        return {"processor": made, "tokenizer": tokenizer}


def _named_class(folder: HFFolder) -> Any:
    """The class of transformers that the configuration in ``folder`` names.

    Raises:
        UsageError: it names none.
    """
    import transformers

    named = list(getattr(folder.config(), "architectures", None) or [])
    known = getattr(transformers, named[0], None) if named else None
    if not isinstance(known, type) or not issubclass(known, transformers.PreTrainedModel):
        raise UsageError(
            f"{folder.path}: config.json names {', '.join(named) or 'no architecture'}, no model "
            "of transformers; give the folder of a vocoder as its save_pretrained wrote it"
        )
    return known


def _made(auto_class: Any, folder: HFFolder) -> Any:
    """The model of the configuration in ``folder``, as ``auto_class`` makes it, with no weights."""
    from transformers import GenerationConfig, PreTrainedModel

    config = folder.config()
    own = isinstance(auto_class, type) and issubclass(auto_class, PreTrainedModel)
    made: Any = auto_class(config) if own else auto_class.from_config(config)
    if (folder.path / "generation_config.json").is_file():
        made.generation_config = GenerationConfig.from_pretrained(
            folder.path, local_files_only=True
        )
    return made.eval()


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    if name in module._buffers:
        module._buffers[name] = value
    else:
        module._parameters[name] = nn.Parameter(value, requires_grad=False)


def _nothing(value: Tensor) -> Tensor:
    """A tensor like ``value`` that takes no room: NaN, or numbers that are no place."""
    if value.dtype.is_floating_point:
        return torch.full((), torch.nan, dtype=value.dtype).expand(value.shape)
    least = 0 if value.dtype == torch.bool else torch.iinfo(value.dtype).min
    return torch.full((), least, dtype=value.dtype).expand(value.shape)
