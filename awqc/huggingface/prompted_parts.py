"""A decoder that reads text with images in it, as a bundle of graphs, found in what is called.

::

    vision    what the processor makes of images            -> rows that stand for them
    embed     tokens                                        -> a row for each
              (rows of images are put in the places of their token, outside of all graphs)
    decoder   rows, mask, positions, keys and values        -> logits, keys and values

Nothing is known of an architecture: the modules are those between which rows flow, see
`awqc.recording.merge`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from awqc.artifacts.fixed_images import FixedImages
from awqc.bundle.parts import Bundle
from awqc.capture.flat_capture import capture_flat
from awqc.errors import CaptureError, UsageError
from awqc.huggingface.generating import TOKENS, Followed, Generating
from awqc.huggingface.given_rows import GivenRows
from awqc.huggingface.image_rows import ImageRows
from awqc.huggingface.prompted_run import PROMPTS, PromptedRun, record_prompt
from awqc.huggingface.rows_decoder import MASK, POSITIONS, Form, capture_reader, kinds_of
from awqc.kv_cache import (
    FIXED_IMAGES,
    IMAGE_POSITIONS,
    IMAGE_ROWS,
    IMAGE_TOKEN,
    LATER_FEATURES,
    LATER_ROWS,
    TEXT_ROWS,
    TOKEN_KINDS,
    TOKEN_ROWS,
)
from awqc.program import Batch, Program
from awqc.recording.flat import FlatCall
from awqc.recording.merge import Merge

VISION, EMBED, DECODER = "vision", "embed", "decoder"


@dataclass(frozen=True)
class PromptedBundle:
    """The parts of a model that continues text with images in it.

    Attributes:
        generating: the model.
        bundle: its parts.
        merge: how rows of images come among those of tokens.
        form: what the decoder takes besides rows.
        answer: what the module that `generate` loops around gives for a token, with its cache.
        looped: path of that module; "" is the model itself.
        fixed: the size that images are brought to; None: they may have any.
    """

    generating: Generating
    bundle: Bundle
    merge: Merge
    form: Form
    answer: Any
    looped: str
    fixed: FixedImages | None = None

    def follow(self, inputs: dict[str, Tensor], most: int) -> Followed:
        """What a run on ``inputs``, of ``most`` new tokens, gives to each part and makes.

        All tokens of the run are one call of the decoder, from no past.

        Raises:
            CaptureError: the model fails, or has several images where its graph is for one.
        """
        if self.fixed is not None and (count := self._images(self.fixed, inputs)) != 1:
            raise CaptureError(
                f"{self.generating.folder.path}: a sample has {count} images; the model is made "
                "for images of one size and calibrated on one at a time: give each a line of its "
                "own"
            )
        run = record_prompt(self.generating, self.merge, inputs)
        made = self.generating.generate_to_follow(inputs, most)
        new = made[:, run.tokens.shape[1] : -1]  # among which that of images is one as any other
        tokens = torch.cat([self.plain(run.tokens), new], dim=1)
        images = torch.cat([run.tokens == self.merge.token, torch.zeros_like(new) > 0], dim=1)
        embed = self.bundle.parts[EMBED]
        embedded = dict(zip(embed.outputs, embed.run({TOKENS: tokens}), strict=True))
        merged = embedded[embed.outputs[-1]].clone()
        merged[:, : run.merged.shape[1]] = run.merged
        program = self.bundle.parts[DECODER]
        read: dict[str, Batch] = {
            VISION: {spec.name: inputs[spec.name] for spec in self.bundle.parts[VISION].inputs},
            EMBED: {TOKENS: tokens},
            DECODER: decoder_batch(program, merged, self.form, images),
        }
        outputs = {f"{VISION}.{IMAGE_ROWS}": run.rows}
        if run.features is not None and run.later is not None:
            outputs[f"{VISION}.{LATER_FEATURES}"] = run.features
            read[DECODER][LATER_ROWS][:, : run.later.shape[1]] = run.later
        outputs |= {f"{EMBED}.{name}": value for name, value in embedded.items()}
        for name, value in zip(program.outputs, program.run(read[DECODER]), strict=True):
            outputs[f"{DECODER}.{name}"] = value
        return Followed((read, outputs), self.generating.without_prompt(made, inputs))

    @property
    def told(self) -> dict[str, str]:
        """What a runner must know, for the metadata of the part of images."""
        kinds, layout = json.dumps(self.form.besides), self.form.layout
        found = {IMAGE_TOKEN: str(self.merge.token), TOKEN_KINDS: kinds}
        if self.fixed is not None:
            found[FIXED_IMAGES] = self.fixed.as_text()
        if layout is not None:
            found[IMAGE_POSITIONS] = json.dumps(layout.as_json())
        return found

    def _images(self, fixed: FixedImages, inputs: dict[str, Tensor]) -> int:
        try:
            return fixed.count({name: inputs[name].numpy() for name in fixed.numbers})
        except UsageError as error:
            raise CaptureError(f"{self.generating.folder.path}: {error.text}") from error

    def plain(self, tokens: Tensor) -> Tensor:
        """``tokens`` with 0 for that of images, which may be beyond the table of rows."""
        return torch.where(tokens == self.merge.token, 0, tokens)


def decoder_batch(program: Program, rows: Tensor, form: Form, images: Tensor) -> Batch:
    """What the decoder reads of ``rows``, ``(batch, tokens, width)``, from no past.

    ``images`` tells which of them are those of images.
    """
    count, total = rows.shape[:2]
    batch: Batch = {
        TOKEN_ROWS: rows,
        MASK: torch.ones(count, total, dtype=torch.long),
        **kinds_of(form.besides, images),
    }
    if (order := form.order(images, 0)) is not None:
        batch[POSITIONS] = order
    for spec in program.inputs:
        if spec.name == LATER_ROWS:
            batch[spec.name] = torch.zeros(count, total, int(spec.shape[-1]), dtype=spec.dtype)
        elif spec.name not in batch:
            sizes = (0 if isinstance(size, str) else size for size in spec.shape[1:])
            batch[spec.name] = torch.zeros(count, *sizes, dtype=spec.dtype)
    return {spec.name: batch[spec.name] for spec in program.inputs}


def capture_prompted(generating: Generating) -> PromptedBundle:
    """The parts of ``generating``, captured.

    Raises:
        CaptureError: its images do not become rows among those of tokens, its decoder takes more
            than rows, or a part cannot be captured.
    """
    runs = _runs(generating)
    rows, name = ImageRows.of(generating, runs), f"{generating.name}-{VISION}"
    vision, fixed = None, None
    if not rows.held:
        vision, fixed = rows.captured(name, [run.inputs for run in runs])
    if vision is None or not _takes_any_number(vision):
        generating = generating.of_one_size()
        runs = _runs(generating)
        rows = rows.of_one_size(generating, runs[0].merge)
        vision, fixed = rows.captured(name, [run.inputs for run in runs])
    decoder, form = capture_reader(generating, runs)
    parts = {VISION: vision, EMBED: _embed(generating, runs), DECODER: decoder}
    run = runs[0]
    return PromptedBundle(generating, Bundle(parts), run.merge, form, run.answer, run.looped, fixed)


def _takes_any_number(vision: Program) -> bool:
    """Whether no number of images is fixed."""
    return all(isinstance(spec.shape[0], str) for spec in vision.inputs if spec.shape)


def _runs(generating: Generating) -> list[PromptedRun]:
    """Two runs, in which images become rows in one way.

    Raises:
        CaptureError: they do not.
    """
    runs = [PromptedRun.of(generating, *each) for each in PROMPTS]
    merge, other = (run.merge for run in runs)
    if other != merge:
        raise CaptureError(
            f"{generating.folder.path}: of two runs the rows of images come from {merge.maker} "
            f"times {merge.factor:.6g} and from {other.maker} times {other.factor:.6g}; a graph "
            "has one way"
        )
    return runs


def _embed(generating: Generating, runs: list[PromptedRun]) -> Program:
    module = generating.model.get_submodule(runs[0].merge.embedding)
    table, given = module.forward, GivenRows.of(generating, runs[0])
    tokens = [torch.where(run.tokens == run.merge.token, 0, run.tokens) for run in runs]
    if len({each.shape[1] for each in tokens}) == 1:  # it takes any number, whatever was made
        tokens[-1] = tokens[-1][:, 1:]
    examples = [{TOKENS: each} for each in tokens]

    def forward(**arguments: Tensor) -> dict[str, Tensor]:
        tokens = arguments[TOKENS]
        rows = table(tokens)
        return {TOKEN_ROWS: given.put_among(tokens, rows), TEXT_ROWS: rows}

    outputs = (TOKEN_ROWS, TEXT_ROWS) if len(given.tokens) else (TOKEN_ROWS,)
    flat = FlatCall(forward, dict(examples[0]), outputs, {})
    return capture_flat(
        module, flat, examples, {TOKENS: TOKENS}, {name: name for name in outputs},
        f"{generating.name}-{EMBED}", lambda name: "sequence",
    )  # fmt: skip
