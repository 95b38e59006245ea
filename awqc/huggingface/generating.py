"""A model that generates text, as its folder has it: of several graphs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import signature
from typing import Any

from torch import Tensor

from awqc.bundle.parts import Trace
from awqc.huggingface.circling import Circling
from awqc.huggingface.config_values import context_length, fewest_places
from awqc.huggingface.folder import HFFolder, reporting
from awqc.huggingface.processor import Processor
from awqc.huggingface.recorded import model_inputs
from awqc.huggingface.rotary import fix_rotary
from awqc.huggingface.samples import USUAL, Sample
from awqc.huggingface.task_table import FolderTask
from awqc.recording.outermost import OutsideCall, record_outermost

TOKENS, CRITERIA = "input_ids", "stopping_criteria"
NEW_TOKENS = 64
"""Tokens that are generated of a sample, where no number is asked for."""
FEWEST_TOKENS = 3
"""Calls of a decoder that tell what it carries."""


@dataclass(frozen=True)
class Recording:
    """A run of `generate`: its calls of modules, and ids of the new tokens of its first sample."""

    calls: list[OutsideCall]
    ids: list[int]


@dataclass(frozen=True)
class Followed:
    """A sample that was generated for.

    Attributes:
        trace: what each part read and made.
        ids: of its new tokens.
    """

    trace: Trace
    ids: list[int]


@dataclass(frozen=True)
class Generating:
    """A model whose `generate` calls its parts, a decoder again and again.

    Attributes:
        folder: where it comes from.
        task: what it is for.
        model: the float model.
        processor: what makes its inputs.
        notes: what a user must know of it.
        image_size: tells height and width of images, where the model must be made for one.
    """

    folder: HFFolder
    task: FolderTask
    model: Any = field(repr=False)
    processor: Processor = field(repr=False)
    notes: tuple[str, ...] = ()
    image_size: Callable[[], tuple[int, int]] = lambda: USUAL.image

    @classmethod
    def load(cls, folder: HFFolder, task: FolderTask) -> Generating:
        """The model in ``folder``.

        Raises:
            UsageError: its processor or tokenizer is missing or another model's.
            CaptureError: it cannot be loaded.
        """
        processor = Processor.of(folder, task.reads, task.with_prompt)
        model, extra = folder.model(task.load_class())
        fix_rotary(model)
        notes = (
            [f"{len(extra)} tensors of the weights have no place in {type(model).__name__}"]
            if extra
            else []
        )
        return cls(folder, task, model, processor, tuple(notes))

    def doing(self, task: FolderTask) -> Generating:
        """The same model as one for ``task``, with the processor of what that reads.

        Raises:
            UsageError: the folder has none.
        """
        if task == self.task:
            return self
        processor = Processor.of(self.folder, task.reads, task.with_prompt)
        return replace(self, task=task, processor=processor)

    @property
    def name(self) -> str:
        """Name of the model, for messages and files."""
        return self.folder.name

    @property
    def most_tokens(self) -> int:
        """Tokens that its decoder can make at most, as far as its configuration says."""
        config = self.model.config
        longest = getattr(config, "max_target_positions", None) or context_length(config)
        longest = longest or fewest_places(config)
        return NEW_TOKENS if not isinstance(longest, int) else max(longest // 2, FEWEST_TOKENS)

    def of_one_size(self) -> Generating:
        """The same, with all images brought to `image_size`."""
        return replace(self, processor=replace(self.processor, image_size=self.image_size()))

    def inputs(self, samples: Sequence[Sample], tokens: int | None = None) -> dict[str, Tensor]:
        """What the model takes of ``samples``; texts are cut after ``tokens``."""
        return model_inputs(self.model, self.processor, samples, tokens)

    def generate(self, inputs: dict[str, Tensor], most: int, least: int = 0, **others: Any) -> Any:
        """Ids of the likeliest tokens, ``(batch, tokens)``: ``most`` at most, ``least`` at least.

        With a cache, which configurations of models that were trained often switch off. ``others``
        go to the model's own `generate`.

        Raises:
            CaptureError: the model fails on ``inputs``.
        """
        shapes = ", ".join(f"{name}={list(value.shape)}" for name, value in inputs.items())
        what = f"{type(self.model).__name__}.generate fails on {shapes}"
        with reporting(f"{self.folder.path}: {what}"):
            return self.model.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=most, min_new_tokens=least,
                use_cache=True, **others,
            )  # fmt: skip

    def new_tokens(self, inputs: dict[str, Tensor], most: int) -> list[int]:
        """Ids of what `generate` makes of one sample, without a prompt that it continues."""
        return self.without_prompt(self.generate(inputs, most), inputs)

    def without_prompt(self, made: Tensor, inputs: dict[str, Tensor]) -> list[int]:
        """Ids of one sample that are new in ``made``, which `generate` made of ``inputs``."""
        ids: list[int] = made[0].tolist()
        return ids[inputs[TOKENS].shape[1] :] if self.task.prompted else ids

    def generate_to_follow(self, inputs: dict[str, Tensor], most: int) -> Tensor:
        """As `generate`, for what parts are calibrated on and judged by.

        There are `FEWEST_TOKENS` new tokens at least, unless ``most`` is less; where they go in
        circles, the text ends.
        """
        others: dict[str, Any] = {}
        if CRITERIA in signature(self.model.generate).parameters:
            others[CRITERIA] = [Circling()]
        made: Tensor = self.generate(inputs, most, min(most, FEWEST_TOKENS), **others)
        return made

    def record(
        self, inputs: dict[str, Tensor], most: int, among: Collection[str] | None = None
    ) -> Recording:
        """What `generate_to_follow` calls, see `record_outermost`, and makes."""
        made: list[Tensor] = []
        calls = record_outermost(
            self.model, lambda: made.append(self.generate_to_follow(inputs, most)), among
        )
        return Recording(calls, self.without_prompt(made[0], inputs))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, without special tokens."""
        text: str = self._decode(ids, skip_special_tokens=True)
        return text.strip()

    @cached_property
    def _decode(self) -> Callable[..., str]:
        """The processor's own way, or that of the folder's tokenizer, which is read once."""
        own: Callable[..., str] | None = getattr(self.processor.made, "decode", None)
        return own or self.folder.tokenizer().decode
