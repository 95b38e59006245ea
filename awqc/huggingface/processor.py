"""The processor in a Hugging Face folder: what makes a model's inputs of text, images and audio."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awqc.artifacts.json_files import read_json
from awqc.errors import CaptureError, UsageError
from awqc.huggingface.folder import TOKENIZER_CONFIG, HFFolder, reporting
from awqc.huggingface.prompts import added_tokens, image_mark, prompt_inputs
from awqc.huggingface.samples import Maker, Sample
from awqc.program import AUDIO, IMAGE, TEXT, Kinds

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
AUTO_CLASSES: dict[Kinds, str] = {(IMAGE,): "AutoImageProcessor", (AUDIO,): "AutoFeatureExtractor"}
"""Classes of transformers for one kind of data; `AutoProcessor` is that for several."""

TOLD_BY = {
    IMAGE: frozenset({"image_processor_type", "image_mean", "do_resize", "do_rescale"}),
    AUDIO: frozenset({"sampling_rate", "feature_size", "num_mel_bins"}),
}
"""Settings in a processor's files by which one sees what it reads."""

BOXES = "boxes"
"""What a processor calls pieces of an image: for each image some of left, top, width, height."""

WORDS = 256
"""Tokens of which texts are made up, at most."""


@dataclass(frozen=True)
class Processor:
    """A folder's own processor for the data that a task reads.

    Attributes:
        folder: where it comes from.
        reads: the kinds of data.
        made: the object of transformers.
        prompted: whether each text has an image in it.
        image_size: height and width that images are brought to before; None: they stay.
    """

    folder: HFFolder
    reads: Kinds
    made: Any = field(repr=False)
    prompted: bool = False
    image_size: tuple[int, int] | None = None

    @classmethod
    def of(cls, folder: HFFolder, reads: Kinds, prompted: bool = False) -> Processor:
        """The one in ``folder``.

        Raises:
            UsageError: there is none, it cannot be read, or it needs a package that is missing.
        """
        import transformers

        if reads == (TEXT,):
            return cls(folder, reads, _padding(folder.tokenizer()))
        _check_kind(folder, reads)
        if IMAGE in reads:
            require_pillow()
        auto_class = getattr(transformers, AUTO_CLASSES.get(reads, "AutoProcessor"))
        made = _read(folder, auto_class, reads)
        parts = {TEXT: "tokenizer", IMAGE: "image_processor", AUDIO: "feature_extractor"}
        needed = reads if len(reads) > 1 else ()
        lacking = [kind for kind in needed if getattr(made, parts[kind], None) is None]
        if lacking:
            raise UsageError(
                f"{folder.path}: the processor ({type(made).__name__}) takes no {lacking[0]}, "
                f"which the model reads; {PROCESSOR_FILES[1]} or the files of one of its parts are "
                "missing or another model's: copy the model's processor files into the folder"
            )
        return cls(folder, reads, made, prompted)

    @property
    def name(self) -> str:
        """Its class, for messages."""
        return type(self.made).__name__

    @property
    def rate(self) -> int:
        """Samples a second of the audio that it takes.

        Raises:
            UsageError: it takes no audio.
        """
        part = getattr(self.made, "feature_extractor", self.made)
        rate = getattr(part, "sampling_rate", None)
        if type(rate) is not int or rate < 1:
            raise UsageError(
                f"{self.folder.path}: the processor ({self.name}) has no sampling_rate, so it "
                "takes no audio; copy the model's own processor files into the folder"
            )
        return rate

    @property
    def marks_images(self) -> bool:
        """Whether the texts that it takes beside images have something that stands for these."""
        return any(getattr(self.made, name, None) for name in ("chat_template", "image_token"))

    def maker(self) -> Maker:
        """What makes up samples that it takes."""
        rate = self.rate if AUDIO in self.reads else 0
        return Maker(self.reads, rate, self._words() if TEXT in self.reads else ())

    @cached_property
    def _mark(self) -> str:
        return image_mark(self.made, self.maker().sample(np.random.default_rng(0)))

    def _sized(self, sample: Sample) -> Sample:
        return sample if self.image_size is None else sample.sized(self.image_size)

    def _words(self) -> list[str]:
        """Some tokens of its tokenizer, as text."""
        tokenizer = getattr(self.made, "tokenizer", self.made)
        others = set(tokenizer.all_special_ids)
        if self.prompted:
            others |= added_tokens(tokenizer)
        ids = sorted(set(tokenizer.get_vocab().values()) - others)
        words = [tokenizer.decode([each]).strip() for each in ids[:: len(ids) // WORDS + 1]]
        return [word for word in words if word] or ["a"]

    def inputs(self, samples: Sequence[Sample], tokens: int | None = None) -> dict[str, Tensor]:
        """What it makes of ``samples``: tensors by the names of the model's inputs.

        Of each kind there may be another number of samples. Texts are cut after ``tokens``.

        Raises:
            CaptureError: it fails on them.
        """
        made = self._call(samples, tokens)
        if not isinstance(made, Mapping):
            raise CaptureError(
                f"{self.folder.path}: the processor ({self.name}) gives a {type(made).__name__}; "
                "tensors by the names of the model's inputs are needed"
            )
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}

    def _call(self, samples: Sequence[Sample], tokens: int | None) -> Any:
        texts = [sample.text for sample in samples if sample.text is not None]
        images = [sample.image for sample in samples if sample.image is not None]
        audio = [sample.audio for sample in samples if sample.audio is not None]
        sources = ", ".join(dict.fromkeys(sample.source for sample in samples))
        what = f"{self.folder.path}: the processor ({self.name}) fails on {sources}"
        with reporting(what), torch.no_grad():
            if self.prompted:
                shown = [self._sized(sample) for sample in samples]
                return prompt_inputs(self.made, shown, tokens, self._mark)
            if self.reads == (IMAGE,):
                return self.made(images=images, return_tensors="pt", **_places(self.made, images))
            if self.reads == (AUDIO,):
                return self.made(audio, sampling_rate=self.rate, return_tensors="pt")
            cut = {"truncation": True, "max_length": tokens, "return_tensors": "pt"}
            if self.reads == (TEXT,):
                return self.made(texts, padding=True, verbose=False, **cut)
            kinds = {"text": texts, "images": images, "audio": audio}
            given: dict[str, Any] = {name: some for name, some in kinds.items() if some}
            if AUDIO not in self.reads:
                return self.made(**given, **cut)
            if audio:  # which is cut by the processor's own settings, of the same names
                given["sampling_rate"] = self.rate
            return self.made(
                **given, text_kwargs={"truncation": True, "max_length": tokens}, return_tensors="pt"
            )


def _places(processor: Any, images: Sequence[Any]) -> dict[str, Any]:
    """The whole of each of ``images`` as the one box, where ``processor`` must be told boxes.

    As one for what stands around a person, which looks at a piece of an image at a time.
    """
    preprocess = getattr(processor, "preprocess", None)
    known = inspect.signature(preprocess).parameters if callable(preprocess) else {}
    if BOXES not in known or known[BOXES].default is not inspect.Parameter.empty:
        return {}
    return {BOXES: [[[0.0, 0.0, float(image.width), float(image.height)]] for image in images]}


def _read(folder: HFFolder, auto_class: Any, reads: Kinds) -> Any:
    """What ``auto_class`` makes of the folder's files.

    A configuration of the model may say it all, as those of timm do.

    Raises:
        UsageError: it cannot be read, or there is none.
    """
    try:
        return folder.read_processing(auto_class, "processor", [*PROCESSOR_FILES, TOKENIZER_CONFIG])
    except UsageError as error:
        if any((folder.path / name).is_file() for name in PROCESSOR_FILES):
            raise
        raise UsageError(
            f"{folder.path}: no processor ({' or '.join(PROCESSOR_FILES)}) is in the folder, "
            f"by which {' and '.join(reads)} becomes the model's inputs; copy the model's "
            f"processor files into it ({error.text.removeprefix(f'{folder.path}: ')})"
        ) from error


def _check_kind(folder: HFFolder, reads: Kinds) -> None:
    """Refuse files of a processor of images where audio is read, and the other way round.

    transformers would make the usual processor for the type of model of them.

    Raises:
        UsageError: they are such.
    """
    paths = [folder.path / name for name in PROCESSOR_FILES]
    told = {key for path in paths if path.is_file() for key in _keys(read_json(path))}
    for kind, other in ((IMAGE, AUDIO), (AUDIO, IMAGE)):
        if kind in reads and told.isdisjoint(TOLD_BY[kind]) and not told.isdisjoint(TOLD_BY[other]):
            raise UsageError(
                f"{folder.path}: the processor files there are for {other}, of which they say "
                f"{', '.join(sorted(told & TOLD_BY[other]))}; the model reads {kind}: copy the "
                "model's own processor files into the folder"
            )


def _keys(content: Any) -> Iterator[str]:
    """The keys of JSON objects in ``content``, those inside of others too."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from _keys(value)


def _padding(tokenizer: Any) -> Any:
    """``tokenizer``, which can pad texts to one length."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def require_pillow() -> None:
    """Raise UsageError with the way to install it where Pillow is missing."""
    try:
        import PIL  # noqa: F401  whether it can be
    except ImportError:
        raise UsageError(
            "images are read with Pillow, which is not installed: pip install 'awqc[hf]'"
        ) from None
