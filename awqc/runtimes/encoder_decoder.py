"""A compiled encoder and decoder in onnxruntime; torch is not imported.

Their files have the names that Optimum and transformers.js know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from awqc.artifacts.names import ENCODER_MODEL, MERGED_MODEL, TUNED
from awqc.errors import UsageError
from awqc.kv_cache import CACHE_FLAG, PRESENT, encoder_side, past_of
from awqc.runtimes.ort_model import Array, OrtModel
from awqc.runtimes.session_settings import read_settings

TOKENS = "input_ids"
FILES = (ENCODER_MODEL, MERGED_MODEL)


class EncoderDecoder:
    """The two models of a folder, ready to run.

    Attributes:
        encoder: takes what a processor makes.
        decoder: takes tokens, what the encoder made, and its own states.
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

    def encode(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of the encoder by name.

        Raises:
            VerificationError: onnxruntime cannot run it.
        """
        return dict(zip(self.encoder.outputs, self.encoder.run(feeds), strict=True))

    def given(self, values: Mapping[str, Array]) -> dict[str, Any]:
        """Outputs and inputs of the encoder as the decoder takes them at each call."""
        return self.decoder.hold({encoder_side(name): value for name, value in values.items()})

    def begun(self, values: Mapping[str, Array]) -> dict[str, Any]:
        """The decoder's states before its first call; none, unless the encoder makes them.

        As where rows of an image stand in front of the text.
        """
        made = {name: x for name, x in values.items() if name.startswith(PRESENT)}
        return self.decoder.hold({past_of(name): value for name, value in made.items()})

    def step(
        self, tokens: Array, given: Mapping[str, Any], states: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs for ``tokens``, ``(rows, count)``, and the states for the next call.

        Before the first call there are no ``states`` but those that have `begun`.
        """
        made = self.decoder.hold({TOKENS: tokens, CACHE_FLAG: np.array([bool(states)])})
        carried = states or self.decoder.empty_states(len(tokens))
        return self.decoder.step({**given, **made, **carried})


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
