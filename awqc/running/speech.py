"""A compiled model that speaks: its graphs in onnxruntime, sound into files.

What stands around the graphs is transformers' own code. Its modules are made without weights, but
for the few tensors of those that are no part.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from awqc.artifacts.json_files import Object
from awqc.artifacts.names import REPORT
from awqc.data.spoken import Spoken, as_given, read_spoken
from awqc.errors import CaptureError, UsageError, VerificationError
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.speaking import AROUND, SpeakingFolder
from awqc.huggingface.spoken_settings import limits
from awqc.huggingface.tasks import find_task
from awqc.recording.entries import modules_of
from awqc.running.answers import Answer
from awqc.running.free_paths import free_path
from awqc.running.graphs import described_form, put_graphs, read_entries

SOUNDS, OTHERS = ".wav", ".npy"
"""Endings of files: of sound, and of spectrograms, which only a vocoder makes sound of."""
USUAL_RATE = 22050
"""Samples a second where the folder does not tell."""
FULL = 32767
"""The largest sample of 16 bits."""


def speaks(folder: Path) -> bool:
    """Whether ``folder`` is what a compile wrote for a model that speaks."""
    return (folder / AROUND).is_file() and (folder / REPORT).is_file()


class Speech:
    """The model of a compiled folder, ready to speak.

    Attributes:
        notes: what to tell of the sound.
    """

    def __init__(
        self, folder: Path, target: Path, provider: str = "cpu", most: int | None = None
    ) -> None:
        """Load the graphs in ``folder``; sound is written into ``target``, a folder or a file.

        ``most`` tokens are made of a text; None: as many as the model takes by itself.

        Raises:
            UsageError: a file is missing.
            CaptureError: transformers cannot make the model.
            VerificationError: onnxruntime does not load a graph.
        """
        self.notes: list[str] = []
        self._folder, self._target = folder, target
        origin = HFFolder(folder)
        report = Object.of(folder / REPORT)
        task = find_task(origin.config(), report.get("task", str), where=str(folder))
        entries = read_entries(folder, "the model anew")
        self._speaker = SpeakingFolder(origin, task).bare_speaker()
        for _ in put_graphs(folder, entries, modules_of(self._speaker), described_form, provider):
            pass
        self._sound = self._speaker.vocoder is not None or "Spectrogram" not in task.auto_class
        self._given = {
            name: as_given(value) for name, value in report.inside("given").content.items()
        }
        if most is not None:
            limits(self._speaker)(most, 1)

    def answer(self, given: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """A file of the sound of each text that is ``given``, or is in a file of them.

        Raises:
            UsageError: it cannot be written.
            VerificationError: the model fails.
        """
        texts = [each for one in given for each in self._texts(one)]
        if len(texts) > 1 and self._target.suffix.lower() in (SOUNDS, OTHERS):
            raise UsageError(f"{self._target}: is one file; of {len(texts)} texts give a folder")
        for number, each in enumerate(texts, 1):
            yield each.text, self._written(self._spoken(each), each.text, number)

    def _texts(self, one: str) -> list[Spoken]:
        path = Path(one)
        if path.suffix.lower() in (".txt", ".jsonl") and path.is_file():
            return read_spoken(path, self._speaker)
        return [Spoken(one)]

    def _spoken(self, each: Spoken) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                made = self._speaker(each.text, {**self._given, **each.given})
            except CaptureError as error:
                raise VerificationError(error.text) from error
            except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
                raise VerificationError(
                    f"{self._folder}: the model fails on {each.text!r}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        if not made.isfinite().all():
            raise VerificationError(
                f"{self._folder}: what is made of {each.text!r} is not finite: code around the "
                "graphs reads weights that were not kept; please report it"
            )
        return made.float()

    def _written(self, made: Tensor, text: str, number: int) -> Answer:
        path = self._path(text, number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._sound:
                self._write_sound(path, made)
            else:
                np.save(path, made.numpy())
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
        return Answer(str(path), str(path))

    def _path(self, text: str, number: int) -> Path:
        ending = SOUNDS if self._sound else OTHERS
        if (given := self._target.suffix.lower()) in (SOUNDS, OTHERS):
            if given != ending:
                raise UsageError(
                    f"{self._target}: the model makes {'sound' if self._sound else 'spectrograms'}"
                    f"; give a name that ends with {ending}"
                )
            return self._target
        return free_path(self._target, text, f"speech-{number}", ending)

    def _write_sound(self, path: Path, made: Tensor) -> None:
        """As plain WAV of 16 bits."""
        rate = self._speaker.rate
        if rate is None and not self.notes:
            self.notes.append(
                f"the folder does not tell how many samples a second has: {USUAL_RATE} are written"
            )
        channels = made.reshape(-1, made.shape[-1]).numpy()
        samples = np.rint(channels.T.clip(-1, 1) * FULL).astype("<i2")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(samples.shape[1])
            file.setsampwidth(2)
            file.setframerate(rate or USUAL_RATE)
            file.writeframes(samples.tobytes())
