"""A run of a model on a text with an image in it, and what flows inside of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awqc.errors import CaptureError
from awqc.huggingface.folder import reporting
from awqc.huggingface.generating import FEWEST_TOKENS, TOKENS, Generating
from awqc.huggingface.samples import Sample, Sizes
from awqc.kv_cache import POSITIONS, Kinds
from awqc.recording.entries import EntryPoint
from awqc.recording.inner import record_inner
from awqc.recording.instead import FORWARD
from awqc.recording.later import put_in_places
from awqc.recording.merge import Merge
from awqc.recording.outermost import OutsideCall, record_outermost

MASK = "attention_mask"
PROMPTS = (
    (2, Sizes(image=(96, 128), words=4)),
    (3, Sizes(image=(200, 70), words=7)),
)
"""Two calls, each of so many samples; images that are cut into tiles give other numbers of them."""


@dataclass(frozen=True)
class Prompt:
    """What was made of a text with images in it, before the decoder.

    Attributes:
        tokens: ``(batch, count)``.
        rows: what the part of images makes.
        merged: rows of tokens and images, ``(batch, count, width)``.
        features: what the part of images makes for later layers, if it does.
        later: these in the places of their token, ``(batch, count, all of their widths)``.
    """

    tokens: Tensor
    rows: Tensor
    merged: Tensor
    features: Tensor | None = None
    later: Tensor | None = None


@dataclass(frozen=True)
class PromptedRun:
    """A run of `generate` on example data.

    Attributes:
        inputs: what the processor made.
        merge: how rows of images come among those of tokens.
        tokens: ``(batch, count)``.
        merged: what the decoder takes of it, ``(batch, count, width)``.
        logits: for each token that was generated those that it was chosen by.
        following: rows of these tokens but the last.
        besides: what the processor makes that has one number for tokens of images and one for
            others, by name.
        answer: what the module that `generate` loops around gives for a token, with its cache.
        looped: path of that module; "" is the model itself.
        positions: what it is given as positions in all calls, ``(rows, batch, tokens)``, where each
            token has several; else None.
        later: what the decoder takes for later layers, ``(batch, count, all of their widths)``.
    """

    inputs: dict[str, Tensor]
    merge: Merge
    tokens: Tensor
    merged: Tensor
    logits: tuple[Tensor, ...]
    following: tuple[Tensor, ...]
    besides: Kinds
    answer: Any
    looped: str = ""
    positions: Tensor | None = None
    later: Tensor | None = None

    @property
    def steps(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Rows of each call, and those for later layers."""
        yield self.merged, self.later
        for rows in self.following:
            yield rows, None if self.later is None else later_of_text(self.later, rows.shape[1])

    @property
    def images(self) -> Tensor:
        """Which tokens, ``(batch, tokens)``, stand for images, those that follow included."""
        found = self.tokens == self.merge.token
        return torch.cat([found, found.new_zeros(len(found), len(self.following))], dim=1)

    @classmethod
    def of(cls, generating: Generating, count: int, sizes: Sizes) -> PromptedRun:
        """A run on ``count`` samples of ``sizes``, with equal texts.

        Raises:
            CaptureError: images do not come among the rows of tokens as `Merge` says, or `generate`
                is no loop around what takes these rows.
        """
        model, where = generating.model, str(generating.folder.path)
        inputs = generating.inputs(example_samples(generating, count, sizes))
        tokens = _tokens(inputs, where)
        with _running(generating, inputs) as run_once:
            merge = Merge.of(model, run_once, tokens, where)
        prompt = record_prompt(generating, merge, inputs)
        shapes = ", ".join(f"{name}={list(value.shape)}" for name, value in inputs.items())
        made: list[Any] = []

        def run() -> None:
            with reporting(f"{where}: {type(model).__name__}.generate fails on {shapes}"):
                made.append(
                    model.generate(
                        **inputs, do_sample=False, max_new_tokens=FEWEST_TOKENS,
                        min_new_tokens=FEWEST_TOKENS, output_logits=True, use_cache=True,
                        return_dict_in_generate=True,
                    )
                )  # fmt: skip

        calls = record_outermost(model, run, _around(merge.decoder), writing=True)
        if len(calls) < FEWEST_TOKENS or len({call.path for call in calls}) > 1:
            raise CaptureError(
                f"{where}: {type(model).__name__}.generate calls neither the model as a whole in a "
                f"loop nor a part of it that has {merge.decoder} inside"
            )
        new = made[0].sequences[:, tokens.shape[1] :]
        table = model.get_submodule(merge.embedding)
        with torch.no_grad():
            following = [table(new[:, place : place + 1]) for place in range(FEWEST_TOKENS - 1)]
        return cls(
            inputs,
            merge,
            tokens,
            prompt.merged,
            tuple(made[0].logits),
            tuple(following),
            _besides(inputs, tokens == merge.token),
            calls[-1].answer,
            calls[0].path,
            _positions(calls),
            prompt.later,
        )


def _positions(calls: Sequence[OutsideCall]) -> Tensor | None:
    """Those of all tokens of ``calls``, where each token has several."""
    given = [call.before.get(POSITIONS) for call in calls[:FEWEST_TOKENS]]
    several = [each for each in given if each is not None and each.ndim == 3]
    return torch.cat(several, dim=-1) if len(several) == len(given) else None


def _around(path: str) -> tuple[str, ...]:
    """The paths of the module at ``path`` and of all that it is a part of."""
    names = path.split(".")
    return tuple(".".join(names[:count]) for count in range(len(names) + 1))


def record_prompt(generating: Generating, merge: Merge, inputs: dict[str, Tensor]) -> Prompt:
    """What the modules of ``merge`` make of ``inputs``; the decoder does not run.

    Raises:
        CaptureError: one of them is not called.
    """
    ends, entries = merge.decoder, (merge.maker, EntryPoint(merge.decoder))
    with _running(generating, inputs) as run_once:
        calls = record_inner(
            generating.model,
            run_once,
            {entry.path for entry in entries if entry.method == FORWARD},
            lambda _, call: call.path == ends,
            [entry for entry in entries if entry.method != FORWARD],
        )
    found = {EntryPoint(call.path, call.method): call for call in reversed(calls)}
    if missing := [entry for entry in entries if entry not in found]:
        raise CaptureError(
            f"{generating.folder.path}: {missing[0]} is not called on a sample, though it is on "
            "example data; each sample needs an image and a text"
        )
    tokens = _tokens(inputs, str(generating.folder.path))
    result = found[merge.maker].result
    later = merge.later_rows(result)
    return Prompt(
        tokens,
        merge.rows(result),
        calls[-1].given[merge.argument],
        later,
        None if later is None else put_in_places(later, tokens == merge.token),
    )


def later_of_text(later: Tensor, count: int) -> Tensor:
    """What stands beside ``later`` for ``count`` tokens of text, for which nothing is added."""
    return later.new_zeros(len(later), count, later.shape[-1])


@contextmanager
def _running(generating: Generating, inputs: dict[str, Tensor]) -> Iterator[Callable[[], object]]:
    """What runs the model on ``inputs``, once."""
    model = generating.model
    shapes = ", ".join(f"{name}={list(value.shape)}" for name, value in inputs.items())
    with reporting(f"{generating.folder.path}: {type(model).__name__} fails on {shapes}"):
        yield lambda: model(**inputs)


def example_samples(generating: Generating, count: int, sizes: Sizes) -> list[Sample]:
    """Samples with images of their own and one text, so that all have as many tokens."""
    random = np.random.default_rng(0)
    maker = generating.processor.maker()
    made = [maker.sample(random, sizes) for _ in range(count)]
    return [replace(sample, text=made[0].text) for sample in made]


def _tokens(inputs: dict[str, Tensor], where: str) -> Tensor:
    if TOKENS not in inputs or inputs[TOKENS].ndim != 2:
        raise CaptureError(f"{where}: the processor makes no {TOKENS} (batch, tokens)")
    return inputs[TOKENS]


def _besides(inputs: dict[str, Tensor], images: Tensor) -> Kinds:
    found: Kinds = {}
    for name, value in inputs.items():
        if name in (TOKENS, MASK) or value.shape != images.shape or value.is_floating_point():
            continue
        kinds = [value[places].unique() for places in (images, ~images)]
        if all(len(numbers) == 1 for numbers in kinds):
            found[name] = (int(kinds[0]), int(kinds[1]))
    return found
