"""A compiled decoder that reads text with images in it; torch is not imported.

Its files have the names that transformers.js knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from awqc.artifacts.fixed_images import FixedImages
from awqc.artifacts.image_positions import ImagePositions
from awqc.artifacts.json_files import Object
from awqc.artifacts.names import EMBED_MODEL, MERGED_MODEL, VISION_MODEL
from awqc.errors import UsageError
from awqc.kv_cache import (
    FIXED_IMAGES,
    IMAGE_POSITIONS,
    IMAGE_ROWS,
    IMAGE_TOKEN,
    LATER_FEATURES,
    LATER_ROWS,
    LOGITS_START,
    TEXT_ROWS,
    TOKEN_KINDS,
    TOKEN_ROWS,
    Kinds,
)
from awqc.runtimes.encoder_decoder import TOKENS, find_parts
from awqc.runtimes.generation_settings import GenerationSettings
from awqc.runtimes.ort_model import Array, OrtModel
from awqc.runtimes.session_settings import read_settings
from awqc.runtimes.text_of import last_logits, likeliest

USUAL_TOKENS = 256
"""Tokens that are made at most where no number is asked for."""
FILES = (VISION_MODEL, EMBED_MODEL, MERGED_MODEL)


class ImageText:
    """The three models of a folder, ready to run.

    Attributes:
        settings: what the folder says of generating.
        vision: takes what a processor makes of images.
        embed: takes tokens.
        decoder: takes rows of both, and its own states.
        token: the token in whose places rows of images are put.
        fixed: the size that images must have; None: any.
    """

    def __init__(self, folder: Path, provider: str = "cpu", threads: int = 0) -> None:
        """Load the models in ``folder``, those in ``ort/`` where they are there.

        Raises:
            UsageError: there are none, or the provider does not run here.
            VerificationError: onnxruntime does not load them.
        """
        self.settings = GenerationSettings.read(folder, prompted=True)
        place = find_parts(folder, FILES)
        self.vision, self.embed, self.decoder = (
            OrtModel(
                place / name, provider, read_settings(place / name, provider),
                threads=threads, fixed={LOGITS_START: -1},
            )
            for name in FILES
        )  # fmt: skip
        if not self.vision.told.get(IMAGE_TOKEN, "").isdecimal():
            raise UsageError(
                f"{place / VISION_MODEL}: its metadata has no {IMAGE_TOKEN}, the token that stands "
                "for rows of images; compile the model anew"
            )
        self.token = int(self.vision.told[IMAGE_TOKEN])
        self.fixed = _fixed(self.vision.told.get(FIXED_IMAGES), place / VISION_MODEL)
        self._layout = _layout(self.vision.told.get(IMAGE_POSITIONS), place / VISION_MODEL)
        self._kinds = _kinds(self.vision.told.get(TOKEN_KINDS, "{}"), place / VISION_MODEL)
        self._places: Array = np.zeros((0, 0), dtype=bool)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width that images must have before the processor; None: any."""
        return None if self.fixed is None else self.fixed.size

    def tokens(
        self, feeds: Mapping[str, Array], max_new_tokens: int | None = None
    ) -> Iterator[int]:
        """The likeliest tokens behind one prompt, as soon as each is known.

        ``feeds`` is what the model's processor makes of it.

        Raises:
            UsageError: the prompt has another number of places for rows of images than there are.
        """
        states: dict[str, Any] = {}
        tokens: list[int] = []

        def step(fresh: list[int]) -> Array:
            nonlocal states
            tokens.extend(fresh)
            outputs, states = self.step(np.array([tokens]), {} if states else feeds, states)
            return last_logits(outputs)

        prompt = [int(token) for token in feeds[TOKENS][0]]
        yield from likeliest(self.settings, step, prompt, max_new_tokens or USUAL_TOKENS)

    def rows(self, tokens: Array, images: Mapping[str, Array]) -> dict[str, Array]:
        """Rows for ``tokens`` ``(rows, count)``, those of ``images`` in the places of their token.

        Beside them, where the decoder takes some, those for its later layers.

        Raises:
            UsageError: there are more or fewer of these places than of these rows, or images are of
                another size than the model takes.
        """
        places = tokens == self.token if images else np.zeros(tokens.shape, dtype=bool)
        alone = TEXT_ROWS in self.embed.outputs and not images
        wanted = TEXT_ROWS if alone else TOKEN_ROWS
        found = {TOKEN_ROWS: self.embed.run({TOKENS: np.where(places, 0, tokens)}, [wanted])[0]}
        for spec in self.decoder.inputs:
            if spec.name == LATER_ROWS:
                found[LATER_ROWS] = np.zeros((*tokens.shape, int(spec.shape[-1])), spec.dtype)
        for name, made in self._seen(images).items() if images else ():
            if len(made) != places.sum():
                raise UsageError(
                    f"the prompt has the image token {self.token} {int(places.sum())} times, and "
                    f"the images give {len(made)} rows; as many are needed: the processor is "
                    "another model's, or the text names the token"
                )
            found[name][places] = made
        return found

    def _seen_so_far(self, carried: Mapping[str, Any]) -> int:
        """Tokens that ``carried`` has seen, by the first state that grows with them."""
        for spec in self.decoder.inputs:
            if spec.name in carried:
                for axis, size in enumerate(spec.shape[1:], 1):
                    if isinstance(size, str):
                        return int(carried[spec.name].shape()[axis])
        raise UsageError("no state of the decoder grows with the tokens; compile the model anew")

    def _positions(self, images: Array, past: int) -> Array:
        """Of the tokens behind ``past``; of all of them ``images`` tells which are images."""
        if self._layout is not None:
            return self._layout.of_tokens(images)[..., past:]
        count, total = images.shape
        return np.tile(np.arange(past, total, dtype=np.int64), (count, 1))

    def _seen(self, images: Mapping[str, Array]) -> dict[str, Array]:
        """The rows of ``images``, by what the decoder calls them.

        Where their size is fixed, one image after another is seen.
        """
        pieces = [dict(images)]
        if self.fixed is not None:
            count = self.fixed.count(images)
            parts = {
                spec.name: np.split(images[spec.name], count)
                for spec in self.vision.inputs
                if spec.name in images
            }
            pieces = [{n: part[place] for n, part in parts.items()} for place in range(count)]
        wanted = {IMAGE_ROWS: TOKEN_ROWS, LATER_FEATURES: LATER_ROWS}
        names = [name for name in wanted if name in self.vision.outputs]
        made = zip(*(self.vision.run(each, names) for each in pieces), strict=True)
        return {
            wanted[name]: np.concatenate([rows.reshape(-1, rows.shape[-1]) for rows in each])
            for name, each in zip(names, made, strict=True)
        }

    def step(
        self, tokens: Array, images: Mapping[str, Array], states: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs for those of ``tokens`` that are behind ``states``, and states for the next call.

        ``tokens``, ``(rows, count)``, are all so far. Before the first call there are no
        ``states``; it is given ``images``, what the processor makes of them. Tokens of calls that
        are given no images stand for none, whichever they are. One prompt is continued at a time.

        Raises:
            UsageError: ``states`` are not those of the last call.
        """
        count, total = tokens.shape
        carried = states or self.decoder.empty_states(count)
        past = self._seen_so_far(carried)
        if past and self._places.shape != (count, past):
            raise UsageError(
                f"these states have seen {past} tokens of {count} texts, and the last call's have "
                f"seen {self._places.shape[1]} of {len(self._places)}; continue one prompt at a "
                "time, or load the model once for each"
            )
        fresh = tokens[:, past:]
        new = fresh == self.token if images else np.zeros(fresh.shape, dtype=bool)
        places = np.concatenate([self._places, new], axis=1) if past else new
        self._places = places
        made = {
            **self.rows(fresh, images),
            "attention_mask": np.ones((count, total), dtype=np.int64),
            "position_ids": self._positions(places, past),
        }
        for name, (image, other) in self._kinds.items():
            made[name] = np.where(places, np.int64(image), np.int64(other))
        return self.decoder.step({**self.decoder.hold(made), **carried})


def _fixed(text: str | None, path: Path) -> FixedImages | None:
    """What the model's metadata says of the size of images, if it does."""
    if text is None:
        return None
    return FixedImages.of_text(text, f"{path}: {FIXED_IMAGES} in its metadata")


def _layout(text: str | None, path: Path) -> ImagePositions | None:
    """What the model's metadata says of positions that follow the layout of images, if it does."""
    if text is None:
        return None
    told = Object.of_text(text, f"{path}: {IMAGE_POSITIONS} in its metadata")
    return ImagePositions.of_json(told)


def _kinds(text: str, path: Path) -> Kinds:
    """For each input that tells places of images from others: what it has there, and elsewhere.

    Raises:
        UsageError: the model's metadata does not say it like that.
    """
    found = Object.of_text(text, f"{path}: {TOKEN_KINDS} in its metadata")
    pairs = {name: found.items(name, int) for name in found.content}
    if any(len(pair) != 2 for pair in pairs.values()):
        raise UsageError(f"{found.where}: two numbers a name are needed; compile the model anew")
    return {name: (pair[0], pair[1]) for name, pair in pairs.items()}
