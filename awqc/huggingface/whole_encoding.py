"""An encoder behind other modules, as the whole runs it on what the processor makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from awqc.errors import CaptureError
from awqc.huggingface.folder import reporting
from awqc.huggingface.generating import TOKENS, Generating
from awqc.huggingface.generating_run import Recorded
from awqc.recording.inner import result_inside
from awqc.recording.structures import Leaves, leaves

DECODER_TOKENS = f"decoder_{TOKENS}"


def encoding_whole(
    generating: Generating, runs: Sequence[Recorded]
) -> tuple[Callable[..., Any], dict[str, str]]:
    """What the encoder makes of the inputs of the whole, which `generate` gives to several modules.

    By path in the result of the recorded call; and what that is called where the whole calls the
    encoder, if it is something else.

    Raises:
        CaptureError: the forward of the whole gives it something else than `generate` does.
    """
    model, run = generating.model, runs[0]
    whole, begin = model.forward, {}
    if not run.loop.path:  # of the whole, which then asks for tokens to begin with
        begin = {run.loop.fresh[0]: run.loop.first.before[run.loop.fresh[0]][:1]}
    elif DECODER_TOKENS in inspect.signature(whole).parameters:
        begin = {DECODER_TOKENS: run.loop.first.before[run.loop.fresh[0]][:1]}

    def made_by(arguments: Mapping[str, Any]) -> Leaves:
        return leaves(result_inside(model, run.encoder.path, lambda: whole(**arguments, **begin)))

    found: list[dict[str, str]] = []
    for each in runs:
        with torch.no_grad(), reporting(f"{generating.folder.path}: the model fails as a whole"):
            made = made_by(each.encoder.arguments)
        names = {path: _same_value(made, each.encoder.result, path) for path in each.wired.values()}
        known = {path: name for path, name in names.items() if name is not None}
        if len(known) < len(names):
            raise CaptureError(
                f"{generating.folder.path}: generate gives {run.encoder.path} something else than "
                "the model's own forward does; one graph needs one way"
            )
        found.append(known)
    paths = found[0]

    def forward(**arguments: Any) -> Leaves:
        made = made_by(arguments)
        return {path: made[name] for path, name in paths.items()}

    return forward, {path: name for path, name in paths.items() if name != path}


def _same_value(made: Leaves, recorded: Leaves, path: str) -> str | None:
    """Where in ``made`` the value of ``recorded`` at ``path`` is; there, if it can be."""
    names = [path, *made] if path in made else list(made)
    return next((name for name in names if torch.equal(made[name], recorded[path])), None)
