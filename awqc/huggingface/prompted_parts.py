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

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from awqc.bundle.parts import Bundle, Trace
from awqc.capture.flat_capture import capture_flat
from awqc.errors import CaptureError
from awqc.huggingface.generating import FEWEST_TOKENS, TOKENS, Generating
from awqc.huggingface.prompted_run import PROMPTS, PromptedRun, record_prompt
from awqc.huggingface.rows_decoder import MASK, POSITIONS, capture_reader, kinds_of
from awqc.kv_cache import IMAGE_ROWS, TOKEN_ROWS, Kinds
from awqc.program import Batch, Program
from awqc.recording.flat import FlatCall, flat_call
from awqc.recording.inner import result_inside
from awqc.recording.merge import Merge
from awqc.recording.structures import leaves

VISION, EMBED, DECODER = "vision", "embed", "decoder"


@dataclass(frozen=True)
class PromptedBundle:
    """The parts of a model that continues text with images in it.

    Attributes:
        generating: the model.
        bundle: its parts.
        merge: how rows of images come among those of tokens.
        besides: what the decoder takes besides, see `awqc.kv_cache.TOKEN_KINDS`.
        answer: what the module that `generate` loops around gives for a token, with its cache.
        looped: path of that module; "" is the model itself.
    """

    generating: Generating
    bundle: Bundle
    merge: Merge
    besides: Kinds
    answer: Any
    looped: str

    def trace(self, inputs: dict[str, Tensor], most: int) -> Trace:
        """What a run on ``inputs``, of ``most`` new tokens, gives to each part and makes.

        All tokens of the run are one call of the decoder, from no past.
        """
        run = record_prompt(self.generating, self.merge, inputs)
        made = self.generating.generate(inputs, most, min(most, FEWEST_TOKENS))
        tokens = torch.cat([run.tokens, made[:, run.tokens.shape[1] : -1]], dim=1)
        embedded = self.bundle.parts[EMBED].run({TOKENS: self.plain(tokens)})[0]
        merged = embedded.clone()
        merged[:, : run.merged.shape[1]] = run.merged
        program = self.bundle.parts[DECODER]
        read: dict[str, Batch] = {
            VISION: {spec.name: inputs[spec.name] for spec in self.bundle.parts[VISION].inputs},
            EMBED: {TOKENS: self.plain(tokens)},
            DECODER: decoder_batch(program, merged)
            | kinds_of(self.besides, tokens == self.merge.token),
        }
        outputs = {f"{VISION}.{IMAGE_ROWS}": run.rows, f"{EMBED}.{TOKEN_ROWS}": embedded}
        for name, value in zip(program.outputs, program.run(read[DECODER]), strict=True):
            outputs[f"{DECODER}.{name}"] = value
        return read, outputs

    def plain(self, tokens: Tensor) -> Tensor:
        """``tokens`` with 0 for that of images, which may be beyond the table of rows."""
        return torch.where(tokens == self.merge.token, 0, tokens)


def decoder_batch(program: Program, rows: Tensor) -> Batch:
    """What the decoder reads of ``rows``, ``(batch, tokens, width)``, from no past."""
    count, total = rows.shape[:2]
    batch: Batch = {
        TOKEN_ROWS: rows,
        MASK: torch.ones(count, total, dtype=torch.long),
        POSITIONS: torch.arange(total).repeat(count, 1),
    }
    for spec in program.inputs:
        if spec.name not in batch:
            sizes = (0 if isinstance(size, str) else size for size in spec.shape[1:])
            batch[spec.name] = torch.zeros(count, *sizes, dtype=spec.dtype)
    return {spec.name: batch[spec.name] for spec in program.inputs}


def capture_prompted(generating: Generating) -> PromptedBundle:
    """The parts of ``generating``, captured.

    Raises:
        CaptureError: its images do not become rows among those of tokens, its decoder takes more
            than rows, or a part cannot be captured.
    """
    where = str(generating.folder.path)
    runs = [PromptedRun.of(generating, *each) for each in PROMPTS]
    merge = runs[0].merge
    if runs[1].merge != merge:
        raise CaptureError(
            f"{where}: of two runs the rows of images come from {merge.source} times "
            f"{merge.factor:.6g} and from {runs[1].merge.source} times "
            f"{runs[1].merge.factor:.6g}; a graph has one way"
        )
    decoder, besides = capture_reader(generating, runs[0])
    parts = {
        VISION: _vision(generating, runs),
        EMBED: _embed(generating, runs),
        DECODER: decoder,
    }
    run = runs[0]
    return PromptedBundle(generating, Bundle(parts), merge, besides, run.answer, run.looped)


def _vision(generating: Generating, runs: list[PromptedRun]) -> Program:
    model, merge = generating.model, runs[0].merge
    whole = model.forward

    def forward(**arguments: Any) -> dict[str, Tensor]:
        result = result_inside(model, merge.source, lambda: whole(**arguments))
        made = leaves(result)[merge.made]
        return {IMAGE_ROWS: made if merge.factor == 1 else made * merge.factor}

    examples = [run.inputs for run in runs]
    flat, read = flat_call(forward, dict(examples[0]), (IMAGE_ROWS,), examples)
    if TOKENS in read:
        raise CaptureError(
            f"{generating.folder.path}: the rows of images, which {merge.source} makes, are "
            f"others for other {TOKENS}; the part of images must not read text"
        )
    names = {path: path for path in read}
    return capture_flat(
        model, flat, examples, names, {IMAGE_ROWS: IMAGE_ROWS}, f"{generating.name}-{VISION}",
        lambda name: None,
    )  # fmt: skip


def _embed(generating: Generating, runs: list[PromptedRun]) -> Program:
    module = generating.model.get_submodule(runs[0].merge.embedding)
    table = module.forward
    examples = [{TOKENS: torch.where(run.tokens == run.merge.token, 0, run.tokens)} for run in runs]

    def forward(**arguments: Tensor) -> dict[str, Tensor]:
        return {TOKEN_ROWS: table(arguments[TOKENS])}

    flat = FlatCall(forward, dict(examples[0]), (TOKEN_ROWS,), {})
    return capture_flat(
        module, flat, examples, {TOKENS: TOKENS}, {TOKEN_ROWS: TOKEN_ROWS},
        f"{generating.name}-{EMBED}", lambda name: "sequence",
    )  # fmt: skip
