"""A compiled encoder and decoder in onnxruntime; torch is not imported.

Their files have the names that Optimum and transformers.js know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from awqc.artifacts.json_files import Object
from awqc.artifacts.names import ENCODER_MODEL, MERGED_MODEL, TUNED
from awqc.errors import UsageError
from awqc.kv_cache import CACHE_FLAG, PRESENT, PROMPT_ROWS, encoder_side, past_of
from awqc.runtimes.ort_model import Array, OrtModel
from awqc.runtimes.session_settings import read_settings

TOKENS = "input_ids"
FILES = (ENCODER_MODEL, MERGED_MODEL)


class EncoderDecoder:
    """The two models of a folder, ready to run.

    Attributes:
        encoder: takes what a processor makes.
        decoder: takes tokens, what the encoder made, and its own states.
        prompt_rows: inputs of a decoder that continues a prompt, with a row for each of its tokens;
            None: it begins by itself.
    """

    def __init__(self, folder: Path, provider: str = "cpu", threads: int = 0) -> None:
        """Load the models in ``folder``, those in ``ort/`` where they are there.

        Raises:
            UsageError: there are none, or the provider does not run here.
            VerificationError: onnxruntime does not load them.
        """
        place = find_parts(folder, FILES)
        self.encoder, self.decoder = (
            OrtModel(place / name, provider, read_settings(place / name, provider), threads=threads)
            for name in FILES
        )
        told = self.encoder.told.get(PROMPT_ROWS)
        where = f"{place / ENCODER_MODEL}: {PROMPT_ROWS} in its metadata"
        self.prompt_rows = None if told is None else _names(told, where)

    def encode(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of the encoder by name.

        Raises:
            VerificationError: onnxruntime cannot run it.
        """
        return dict(zip(self.encoder.outputs, self.encoder.run(feeds), strict=True))

    def given(self, values: Mapping[str, Array]) -> dict[str, Any]:
        """Outputs and inputs of the encoder as the decoder takes them at each call.

        Keys and values that the encoder makes, and the decoder does not, stay as they are.
        """
        carried = {name for name, _ in self.decoder.states}
        kept = {past_of(name): x for name, x in values.items() if name.startswith(PRESENT)}
        kept = {name: value for name, value in kept.items() if name not in carried}
        named = {encoder_side(name): value for name, value in values.items()}
        return self.decoder.hold({**named, **kept})

    def following(self, feeds: Mapping[str, Array], past: int, count: int) -> dict[str, Any]:
        """What the decoder takes for ``count`` tokens behind ``past`` of a prompt or what follows.

        ``feeds`` is what the processor makes of the prompt.
        """
        rows = {name: feeds[name] for name in self.prompt_rows or ()}
        places = np.arange(past, past + count)
        return self.decoder.hold(
            {name: each[:, places.clip(max=each.shape[1] - 1)] for name, each in rows.items()}
        )

    def begun(self, values: Mapping[str, Array]) -> dict[str, Any]:
        """The decoder's states before its first call; none, unless the encoder makes them.

        As where rows of an image stand in front of the text.
        """
        carried = {name for name, _ in self.decoder.states}
        made = {past_of(name): x for name, x in values.items() if name.startswith(PRESENT)}
        return self.decoder.hold({name: x for name, x in made.items() if name in carried})

    def step(
        self, tokens: Array, given: Mapping[str, Any], states: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs for ``tokens``, ``(rows, count)``, and the states for the next call.

        Before the first call there are no ``states`` but those that have `begun`.
        """
        made = self.decoder.hold({TOKENS: tokens, CACHE_FLAG: np.array([bool(states)])})
        carried = states or self.decoder.empty_states(len(tokens))
        return self.decoder.step({**given, **made, **carried})


def _names(text: str, where: str) -> tuple[str, ...]:
    """The names in ``text``, a JSON list.

    Raises:
        UsageError: it is something else.
    """
    found = Object.of_text(f'{{"names": {text}}}', where)
    return tuple(found.items("names", str))


def find_parts(folder: Path, names: Sequence[str]) -> Path:
    """Where in ``folder`` the models with these ``names`` are.

    Raises:
        UsageError: they are not there.
    """
    for place in (folder / TUNED, folder):
        if all((place / name).is_file() for name in names):
            return place
    raise UsageError(
        f"{folder}: there are no {' and '.join(names)}; give a folder that awqc compile wrote for "
        "a model that generates text of such parts"
    )
