"""`Runner`: a compiled Hugging Face folder, given files or lines, answers in its task's terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from awqc.artifacts.json_files import read_json
from awqc.artifacts.names import ENCODER_MODEL, MERGED_MODEL, REPORT, TUNED, VISION_MODEL
from awqc.data.media_files import kind_of
from awqc.data.records import Record
from awqc.data.sample_reader import SampleReader
from awqc.errors import UsageError, VerificationError, spelled
from awqc.huggingface.diffusion import MODEL_INDEX
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.processor import Processor
from awqc.huggingface.samples import Sample
from awqc.huggingface.sentence_files import SENTENCE
from awqc.huggingface.task_table import FolderTask
from awqc.huggingface.tasks import find_task, ways_of
from awqc.program import IMAGE, TEXT
from awqc.running import answers
from awqc.running.answers import Answer
from awqc.running.dual import Dual
from awqc.running.pooling import Pooling
from awqc.runtimes.image_text import ImageText
from awqc.runtimes.ort_model import Array, OrtModel
from awqc.runtimes.session_file import find_model
from awqc.runtimes.session_settings import read_settings
from awqc.runtimes.text_of import TextOf

CTC = "AutoModelForCTC"
IMAGE_AND_TEXT = "image-text-to-text"
"""The task of a folder with a vision encoder, also where its architecture is listed for text."""


def task_in(folder: HFFolder, task: str | None) -> FolderTask:
    """The task of the compiled model in ``folder``; ``task`` where it is not recognised.

    Its files tell what of the task's models it turned out to be.

    Raises:
        UsageError: there is no such task, or none is recognised.
    """
    places = (folder.path, folder.path / TUNED)
    if task is None and any((place / VISION_MODEL).is_file() for place in places):
        task = IMAGE_AND_TEXT
    encodes = any((place / ENCODER_MODEL).is_file() for place in places)
    report = folder.path / REPORT  # which the files of one form alone have not
    told = read_json(report).get("task") if encodes and report.is_file() else None
    found = find_task(folder.config(), task or told, where=str(folder.path))
    if found.prompted and encodes:
        ways = [each for each in ways_of(found) if each.loops]
        return next((each for each in ways if each.name == told), ways[-1])
    return found


class Runner:
    """A compiled folder that is ready to be used.

    Attributes:
        task: what its model is for.
        processor: what makes its inputs.
        notes: what was done to the inputs, once all are answered.
    """

    def __init__(
        self,
        folder: Path,
        *,
        task: str | None = None,
        provider: str = "cpu",
        max_new_tokens: int | None = None,
        language: str | None = None,
    ) -> None:
        """Load the model of ``folder`` and what makes its inputs.

        Raises:
            UsageError: the folder has no compiled model, or lacks the files that make its inputs.
            VerificationError: onnxruntime does not load the model.
        """
        if (folder / MODEL_INDEX).is_file():
            raise UsageError(
                f"{folder}: is a diffusion pipeline, which Optimum runs: "
                f"ORTDiffusionPipeline.from_pretrained({str(folder)!r})"
            )
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"{folder}: has no config.json; give a folder that awqc compile wrote for a "
                "Hugging Face model"
            )
        self.notes: list[str] = []
        self._folder = HFFolder(folder)
        self._config = self._folder.config()
        self.task: FolderTask = task_in(self._folder, task)
        if self.task.cached:
            raise UsageError(f"{folder}: continues text; awqc generate runs it")
        self._embeds = self.task.pooled or self.task.name.endswith("feature-extraction")
        self._max_new_tokens, self._language = max_new_tokens, language
        self.processor = Processor.of(self._folder, self.task.reads, self.task.with_prompt)
        places = (folder, folder / TUNED)
        several = any((place / MERGED_MODEL).is_file() for place in places)
        self._tokens = self._generate(provider) if several else None
        self._model: OrtModel | None = None
        self._dual: Dual | None = None
        if len(self.task.reads) > 1 and not several and not self.task.paired:
            self._dual = Dual(folder, self.processor, provider)
        elif not several:
            path = find_model(folder)
            self._model = OrtModel(path, provider, read_settings(path, provider))
        inside = self._model is not None and SENTENCE in self._model.outputs
        self._pooling = Pooling.read(folder) if self._embeds and not inside else None
        self._tokenizer: Any = None

    def answer(self, given: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """What the model says of each of ``given``: names of files, or texts.

        Raises:
            UsageError: a file is of a kind that the model does not read.
            CalibrationError: a file is damaged or empty.
        """
        if self._dual is not None:
            yield from self._dual.answer(given)
            self.notes = self._dual.notes
            return
        maker = self.processor.maker()
        reader = SampleReader(self.processor, maker, np.random.default_rng(0))
        records = (
            self._prompts(given)
            if self.task.with_prompt
            else [record for one in given for record in self._records(one)]
        )
        for record, sample in zip(records, reader.read(records), strict=True):
            try:
                answer = self._answer(sample)
            except VerificationError as error:
                raise VerificationError(
                    f"{record.source}: {error.text}. It may be too short or too small for the model"
                ) from error
            yield record.source, answer
        self.notes = reader.notes()

    def _generate(self, provider: str) -> Callable[[dict[str, Array]], Iterator[int]]:
        """What makes the tokens of a text of what the processor makes."""
        folder, most = self._folder.path, self._max_new_tokens
        if self.task.prompted:
            if self._language is not None:
                raise UsageError(f"{folder}: {spelled('language')} is for models that ask for one")
            compiled = ImageText(folder, provider)
            self.processor = replace(self.processor, image_size=compiled.image_size)
            return partial(compiled.tokens, max_new_tokens=most)
        text_of = TextOf(folder, provider=provider)
        return partial(text_of.tokens, max_new_tokens=most, language=self._language)

    def _prompts(self, given: Sequence[str]) -> list[Record]:
        """Images, each with the text behind it."""
        found: list[Record] = []
        for one in given:
            if kind_of(Path(one)) == IMAGE:
                found.append(Record(one, "", {IMAGE: Path(one)}))
            elif not found or found[-1].text:
                raise UsageError(
                    f"{self._folder.path}: before the text {one!r} stands no image; give an image "
                    'file and then the text: image.png "What is this?"'
                )
            else:
                found[-1] = replace(found[-1], text=one)
        return found

    def _records(self, given: str) -> list[Record]:
        path, wanted = Path(given), [kind for kind in self.task.reads if kind != TEXT]
        if not wanted:
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else [given]
            return [Record(line, line, {}) for line in lines if line.strip()]
        if kind_of(path) != wanted[0]:
            raise UsageError(f"{given}: is no {wanted[0]} file, which the model reads")
        return [Record(given, None, {wanted[0]: path})]

    def text(self, inputs: Mapping[str, Tensor]) -> str | None:
        """What the model writes of one sample's ``inputs``; None where it writes no text."""
        if self._tokens is None:
            return self.transcript(self.outputs(inputs)) if self._spells else None
        feeds = {name: value.numpy() for name, value in inputs.items()}
        text: str = self._words().decode(list(self._tokens(feeds)), skip_special_tokens=True)
        return text.strip()

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """What a model of one graph gives for ``inputs``, by name."""
        if self._dual is not None:
            return self._dual.outputs(inputs)
        assert self._model is not None
        made = self._model.run({name: value.numpy() for name, value in inputs.items()})
        return dict(zip(self._model.outputs, made, strict=True))

    @property
    def _transcribes(self) -> bool:
        """Whether outputs are the likeliest letters at each time."""
        return self.task.auto_class == CTC

    @property
    def _spells(self) -> bool:
        """Whether there is also what makes a text of them."""
        return self._transcribes and self._folder.has_tokenizer

    def transcript(self, outputs: Mapping[str, Array]) -> str | None:
        """The text that ``outputs`` are, of a model that transcribes by them; else None."""
        if not self._spells:
            return None
        return str(answers.transcript(outputs, self._words().decode).content)

    def compared(self, inputs: Mapping[str, Tensor], outputs: dict[str, Array]) -> dict[str, Array]:
        """What of ``outputs`` counts: the embedding, of a model that makes one; else all."""
        if not self._embeds:
            return outputs
        mask = inputs.get("attention_mask")
        told = None if mask is None else mask.numpy()
        return {"embedding": np.array(answers.embedding(outputs, told, self._pooling).content)}

    def class_number(self, label: str | int) -> int | None:
        """The number of a class, which is named or has a number already."""
        if isinstance(label, int):
            return label
        names = dict(getattr(self._config, "id2label", None) or {})
        return next((int(number) for number, name in names.items() if name == label), None)

    def _answer(self, sample: Sample) -> Answer:
        inputs = self.processor.inputs([sample])
        if self._tokens is not None:
            text = self.text(inputs)
            return Answer(text or "", text or "")
        feeds = {name: value.numpy() for name, value in inputs.items()}
        return self._said(feeds, self.outputs(inputs))

    def _said(self, feeds: dict[str, Array], outputs: dict[str, Array]) -> Answer:
        name, names = self.task.name, dict(getattr(self._config, "id2label", None) or {})
        if self._transcribes:
            return answers.transcript(outputs, self._words().decode)
        if name.endswith(("classification", "visual-question-answering")) and "logits" in outputs:
            if name == "token-classification":
                words = self._words().convert_ids_to_tokens(feeds["input_ids"].reshape(-1).tolist())
                return answers.tokens(outputs, names, words)
            return answers.classes(outputs, names)
        if name == "fill-mask":
            tokenizer = self._words()
            mask = tokenizer.mask_token_id
            return answers.words_for_masks(
                outputs, feeds["input_ids"], -1 if mask is None else mask,
                lambda token: str(tokenizer.decode([token])).strip(),
            )  # fmt: skip
        if self._embeds:
            return answers.embedding(outputs, feeds.get("attention_mask"), self._pooling)
        return answers.shapes(outputs)

    def _words(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = self._folder.tokenizer()
        return self._tokenizer
