"""One way in for calibration data: whatever a caller has, as batches of a program's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from awqc.data.array_files import read_arrays, to_tensor
from awqc.data.calibration import (
    CalibrationData,
    from_arrays,
    from_iterable,
    from_mapping,
    synthetic,
)
from awqc.data.image_transform import ImageTransform
from awqc.data.media import media_calibration
from awqc.data.media_files import find_media
from awqc.data.sample_tables import is_table
from awqc.data.text_batches import text_calibration
from awqc.data.text_files import is_text_file
from awqc.errors import UsageError, spelled
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.processor import Processor
from awqc.machine.given_paths import given_path
from awqc.program import MEDIA, Program

Calib = Iterable[Any] | Mapping[str, Any] | CalibrationData | str | Path
"""A file of text or arrays, whole arrays by input name, batches, or data that is ready."""

SYNTHETIC = 64
"""Samples that are made up where no number is asked for."""


@dataclass(frozen=True)
class DataSource:
    """Calibration data before a program takes it; files of arrays are read, once.

    Attributes:
        given: what the caller gave; None: nothing.
        text: a text file or table; a table and ``.jsonl`` may name images and audio as well.
        media: images and audio files.
        arrays: whole arrays by name, which may also serve as example inputs.
    """

    given: Calib | None = None
    text: Path | None = None
    media: tuple[Path, ...] | None = None
    arrays: Mapping[str, Tensor] | None = None

    @classmethod
    def of(cls, calib: Calib | None) -> DataSource:
        """``calib``, opened; text and media are told by names of files, arrays by their content.

        Raises:
            UsageError: there is no such file, or a folder holds neither images nor audio.
            CalibrationError: the file cannot be read.
        """
        if isinstance(calib, str | Path):
            path = given_path(calib, spelled("calib"))
            if is_table(path) and path.exists():
                return cls(calib, text=path)
            if (media := find_media(path)) is not None:
                return cls(calib, media=media)
            if not is_text_file(path):
                return cls(calib, arrays=read_arrays(path))
            if not path.is_file():
                raise UsageError(f"{path}: there is no such calibration file; give text")
            return cls(calib, text=path)
        if isinstance(calib, Mapping) and all(_is_array(value) for value in calib.values()):
            return cls(calib, arrays={name: to_tensor(calib[name], name) for name in calib})
        return cls(calib)

    def load(
        self,
        program: Program,
        *,
        num_samples: int | None = None,
        seq_len: int | None = None,
        seed: int = 0,
        folder: HFFolder | None = None,
    ) -> CalibrationData:
        """The data as ``program`` takes it; made up where none was given.

        ``folder`` has what reads text, images and audio; None: the one that the program came from,
        if there is one, or the transform of the user's own code. A language model makes up text,
        models of images and audio get such through their processor, other models get random
        inputs.

        Raises:
            UsageError: an option is unusable, or data is of a kind that the model does not read.
            CalibrationError: the data does not fit.
        """
        if folder is None and program.task.origin is not None:
            folder = HFFolder.of(program)
        reads = program.task.reads
        own = program.task.transform is not None
        if (own or folder is not None) and not MEDIA.isdisjoint(reads):
            if self.given is None or self.media is not None or self.text is not None:
                _refuse_length(seq_len)
                return media_calibration(
                    program,
                    _processor(program, folder),
                    self.media or self.text,
                    "" if self.given is None else str(self.given),
                    num_samples=num_samples,
                    seed=seed,
                )
        elif self.media is not None:
            raise UsageError(
                f"{self.given}: names images or audio, which are for models from a Hugging Face "
                f"folder that reads such, and for factories that return a transform; {program.name}"
                f" reads {' and '.join(reads) or _ARRAYS}"
            )
        return self._text_or_arrays(program, folder, num_samples, seq_len, seed)

    def _text_or_arrays(
        self,
        program: Program,
        tokenizer: HFFolder | None,
        num_samples: int | None,
        seq_len: int | None,
        seed: int,
    ) -> CalibrationData:
        if self.given is None and tokenizer is not None and not tokenizer.has_tokenizer:
            tokenizer = None
        if self.text is not None or (self.given is None and tokenizer is not None):
            if tokenizer is None:
                raise UsageError(
                    f"{self.text}: is text, which is for language models from a Hugging Face "
                    f"folder or a GGUF file; {program.name} takes arrays: give an .npz, a "
                    ".safetensors or a .pt file with one for each input"
                )
            return text_calibration(
                program, tokenizer, self.text, num_samples=num_samples, seq_len=seq_len, seed=seed
            )
        _refuse_length(seq_len)
        return self._without_text(program, num_samples, seed)

    def _without_text(
        self, program: Program, num_samples: int | None, seed: int
    ) -> CalibrationData:
        if self.given is None:
            return synthetic(program, num_samples or SYNTHETIC, seed)
        if isinstance(self.given, CalibrationData):
            return self.given
        if isinstance(self.given, str | Path):
            assert self.arrays is not None
            return from_arrays(self.arrays, program, num_samples, source=str(self.given))
        if isinstance(self.given, Mapping):
            return from_mapping(self.given, program, num_samples)
        return from_iterable(self.given, program, num_samples)


_ARRAYS = "arrays: give an .npz, a .safetensors or a .pt file"


def _processor(program: Program, folder: HFFolder | None) -> Processor | ImageTransform:
    """What makes the inputs of a model that reads images or audio."""
    if program.task.transform is not None:
        return ImageTransform.of(program)
    assert folder is not None, program.name
    return Processor.of(folder, program.task.reads, program.task.paired)


def _refuse_length(seq_len: int | None) -> None:
    if seq_len is not None:
        raise UsageError(
            f"{spelled('seq_len')} is for language models that read text; leave it out here"
        )


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)
