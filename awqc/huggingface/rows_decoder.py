"""A decoder that takes rows in place of tokens, as one graph for any number behind any past.

What it is given besides is what agrees with `generate`: the order of the rows, and numbers that
tell tokens of images from others. What still differs then is not known to runners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from awqc.artifacts.image_positions import ImagePositions
from awqc.capture.module import capture_module
from awqc.capture.renamed import rename_inputs
from awqc.errors import CaptureError
from awqc.huggingface.capture import TOKENS as ROWS
from awqc.huggingface.carried import Shape, State, cache_shapes, no_past, spelled_state
from awqc.huggingface.folder import reporting
from awqc.huggingface.forwards import cache_axes, cached_example, cached_forward
from awqc.huggingface.generating import Generating
from awqc.huggingface.prompted_run import PromptedRun
from awqc.kv_cache import LATER_ROWS, TOKEN_ROWS, Kinds, past_name, present_name
from awqc.program import Program, Task
from awqc.recording.broadcast import broadcasting
from awqc.recording.inner import given_instead
from awqc.recording.instead import forward_instead
from awqc.recording.later import AllMarked
from awqc.recording.near import near

HEAD, MASK, POSITIONS, PAST = "logits", "attention_mask", "position_ids", "past_key_values"
AGREE = 1e-3
"""How far logits may be from those of `generate`, relative to their norm."""
Forward = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Form:
    """What a decoder is given beside rows, their mask and a past.

    Attributes:
        positions: whether it is told the place of each row.
        besides: numbers for tokens of images and for others.
        layout: how places follow from images, where each row has several; else None.
    """

    positions: bool
    besides: Kinds
    layout: ImagePositions | None = None

    def order(self, images: Tensor, seen: int) -> Tensor | None:
        """Places of the tokens behind the first ``seen``, of which ``images`` tells all."""
        if not self.positions:
            return None
        if self.layout is None:
            return torch.arange(seen, images.shape[1]).repeat(len(images), 1)
        return torch.from_numpy(self.layout.of_tokens(images.numpy())[..., seen:])


def capture_reader(generating: Generating, runs: Sequence[PromptedRun]) -> tuple[Program, Form]:
    """The decoder of ``runs``, captured, and what it is given.

    Raises:
        CaptureError: it reads something that runners do not make, or cannot be captured.
    """
    where, run = str(generating.folder.path), runs[0]
    model = generating.model.get_submodule(run.looped)
    shapes = cache_shapes(model, where)
    example = cached_example(model, shapes)
    tokens = example.pop("input_ids")
    forward = rows_forward(model, run)
    form = choose_form(forward, run, shapes, POSITIONS in example, where, found_layout(runs))
    if not form.positions:
        example.pop(POSITIONS, None)
    elif form.layout is not None:
        example[POSITIONS] = example[POSITIONS].expand(form.layout.rows, *tokens.shape).clone()
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randn(*tokens.shape, run.merged.shape[-1], generator=drawn)
    images = torch.arange(example[MASK].shape[1]).repeat(len(tokens), 1) % 3 == 1
    example = {TOKEN_ROWS: rows} | example | kinds_of(form.besides, images)
    if run.later is not None:
        example[LATER_ROWS] = torch.randn(*tokens.shape, run.later.shape[-1], generator=drawn)
    past, present = ([name(*each) for each in shapes] for name in (past_name, present_name))
    names = [name for key in example for name in (past if key == PAST else [key])]
    axes: dict[str, Mapping[int, str]] = {**cache_axes(shapes)}
    for key in example.keys() - {PAST}:
        total = key == MASK or key in form.besides
        axes[key] = {0: ROWS[0], 1: "past + sequence" if total else ROWS[1]}
    if form.layout is not None:
        axes[POSITIONS] = {1: ROWS[0], 2: ROWS[1]}
    with forward_instead(model, forward):
        program = capture_module(
            model,
            example,
            name=f"{generating.name}-decoder",
            dynamic=axes,
            states=list(zip(past, present, strict=True)),
            output_names=[HEAD, *present],
            fixed=[] if form.layout is None else [(POSITIONS, 0)],
            copy=False,
        )
    program.graph.eliminate_dead_code()
    program.tidy()
    program.task = Task(MASK, (HEAD,))
    return rename_inputs(program, names), form


def found_layout(runs: Sequence[PromptedRun]) -> ImagePositions | None:
    """How positions of ``runs`` follow from images, where each token has several; else None.

    Each sample of ``runs`` has one image.
    """
    told = [
        (run.images.numpy(), run.positions.numpy()) for run in runs if run.positions is not None
    ]
    if len(told) < len(runs):
        return None
    return ImagePositions.found(told, int(told[0][0][0].sum()))


def rows_forward(model: Any, run: PromptedRun) -> Forward:
    """As `cached_forward`, with rows in place of tokens, and more that the model is given.

    ``model`` is what ``run`` loops around.
    """
    whole, merge = model.forward, run.merge
    inside = merge.decoder.removeprefix(run.looped).removeprefix(".")
    taking = model.get_submodule(inside) if inside else None

    def forward(
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        past_key_values: Mapping[str, Tensor] | None = None,
        later_rows: Tensor | None = None,
        **besides: Tensor,
    ) -> tuple[Tensor, ...]:
        way = partial(whole, **besides)
        marks = torch.ones(inputs_embeds.shape[:2], dtype=torch.bool)
        rows = {merge.argument: inputs_embeds}
        if later_rows is not None:
            rows |= merge.later.arguments(later_rows, marks)
        if taking is None:
            way = partial(_without_tokens, way, **rows)
            given: AbstractContextManager[None] = nullcontext()
        else:
            given = given_instead(taking, rows)
        told = SimpleNamespace(forward=way, config=model.config, modules=model.modules)
        tokens = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long)
        with given, broadcasting(), AllMarked(marks):
            return cached_forward(told)(tokens, attention_mask, position_ids, past_key_values)

    return forward


def _without_tokens(way: Callable[..., Any], *, input_ids: Tensor, **more: Any) -> Any:
    """What ``way`` gives for ``more``: it takes rows, in place of ``input_ids``."""
    return way(**more)


def kinds_of(besides: Kinds, images: Tensor) -> dict[str, Tensor]:
    """What a decoder takes ``besides`` for tokens, which are those of ``images`` or others."""
    return {name: torch.where(images, *numbers) for name, numbers in besides.items()}


def choose_form(
    forward: Forward, run: PromptedRun, shapes: Mapping[State, Shape], order: bool,
    where: str, layout: ImagePositions | None = None,
) -> Form:  # fmt: skip
    """The first form in which ``forward`` gives what `generate` gave.

    Positions that follow a ``layout`` are tried last: first without rows that number tokens by
    their order.

    Raises:
        CaptureError: there is none.
    """
    ordered = (True, False) if order else (False,)
    forms = [Form(positions, {}) for positions in ordered]
    if run.besides:
        forms += [Form(positions, run.besides) for positions in ordered]
    if layout is not None:
        ways = dict.fromkeys((layout.ordered > 0, False))
        forms += [
            Form(True, besides, layout.unordered() if less else layout)
            for besides in ([{}, run.besides] if run.besides else [{}])
            for less in ways
        ]
    for form in forms:
        if _agrees(forward, run, shapes, form):
            return form
    several = "" if run.positions is None else " in one row"
    if layout is not None:
        several += " or in those that follow the layout of images"
    elif run.positions is not None:
        several += " (those of generate follow no layout of images that repeats)"
    tried = ", ".join([*([POSITIONS + several] if order else []), *run.besides]) or "nothing"
    raise CaptureError(
        f"{where}: given the rows that {run.merge.decoder} takes ({run.merge.argument}), and each "
        f"new token behind them, the decoder gives other {HEAD} than in generate, with {tried} "
        "besides: it reads more than rows and their places, which no runner could make"
    )


def _agrees(
    forward: Forward,
    run: PromptedRun,
    shapes: Mapping[State, Shape],
    form: Form,
) -> bool:
    """Whether ``forward``, called as runners do, gives the logits of ``run``, step by step."""
    count = len(run.tokens)
    past = {spelled_state(state): empty for state, empty in no_past(shapes, count).items()}
    steps = list(run.steps)
    ends = [0]
    for rows, _ in steps:
        ends.append(ends[-1] + rows.shape[1])
    images = run.images
    for (seen, total), (rows, later), wanted in zip(pairwise(ends), steps, run.logits, strict=True):
        order = form.order(images[:, :total], seen)
        mask = torch.ones(count, total, dtype=torch.long)
        besides = kinds_of(form.besides, images[:, :total])
        if later is not None:
            besides[LATER_ROWS] = later
        with torch.no_grad(), reporting("the decoder does not run on rows alone"):
            logits, *made = forward(rows, mask, order, past, **besides)
        if not near(logits[:, -1], wanted, AGREE):
            return False
        past = dict(zip(past, made, strict=True))
    return True
