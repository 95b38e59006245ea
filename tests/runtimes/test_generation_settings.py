"""Which tokens a decoder may make, as the files beside it say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from awqc.errors import UsageError
from awqc.runtimes.generation_settings import NO_START, GenerationSettings

LOGITS = np.arange(8, dtype=np.float32)


def read(folder: Path, config: dict[str, Any], generation: dict[str, Any]) -> GenerationSettings:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return GenerationSettings.read(folder)


def test_generation_config_comes_before_config(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"decoder_start_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64},
        {"decoder_start_token_id": 3, "max_length": 20, "eos_token_id": None},
    )
    assert (found.start, found.ends, found.longest) == (3, frozenset({2}), 20)


def test_a_model_that_is_prompted_has_its_settings_in_the_part_on_text(tmp_path: Path) -> None:
    text = {"eos_token_id": 2, "bos_token_id": 1, "max_position_embeddings": 4096}
    read(tmp_path, {"text_config": text, "decoder_start_token_id": 1}, {"max_length": 20})
    found = GenerationSettings.read(tmp_path, prompted=True)
    assert (found.start, found.ends, found.longest) == (NO_START, frozenset({2}), 4096)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    assert GenerationSettings.read(tmp_path, prompted=True).ends == frozenset({3, 4})


def test_without_a_first_token_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name no decoder_start_token_id"):
        read(tmp_path, {"eos_token_id": [2]}, {})


def test_languages_and_tasks_are_those_of_the_file(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"decoder_start_token_id": 1},
        {
            "lang_to_id": {"<|en|>": 5, "<|de|>": 6},
            "task_to_id": {"translate": 7},
            "no_timestamps_token_id": 4,
            "forced_decoder_ids": [[1, None], [2, 7]],
        },
    )
    assert found.languages == (("en", 5), ("de", 6))
    assert found.tasks == (("translate", 7),)
    assert (found.plain, found.prompt) == (4, (7,))


KINDS = [
    ("eos_token_id", {}), ("eos_token_id", [{}]), ("eos_token_id", "2"), ("suppress_tokens", [[]]),
    ("bad_words_ids", [1]), ("bad_words_ids", [["a"]]), ("begin_suppress_tokens", {"a": 1}),
    ("forced_bos_token_id", []), ("no_repeat_ngram_size", "many"), ("lang_to_id", [1]),
    ("lang_to_id", {"en": "x"}), ("forced_decoder_ids", [1]), ("forced_decoder_ids", [[1, 2, 3]]),
    ("forced_decoder_ids", [[1, "x"]]), ("decoder_start_token_id", [1]), ("task_to_id", 3),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), KINDS, ids=str)
def test_values_of_other_types_are_named(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{tmp_path}.*json"):
        read(tmp_path, {"decoder_start_token_id": 1}, {key: value})


def test_a_part_on_text_that_is_none_is_named(tmp_path: Path) -> None:
    read(tmp_path, {"decoder_start_token_id": 1, "text_config": [1]}, {})
    with pytest.raises(UsageError, match="'text_config' is a list; an object or null is needed"):
        GenerationSettings.read(tmp_path, prompted=True)


@pytest.mark.parametrize(
    ("settings", "made", "best"),
    [
        (GenerationSettings(0), [0], 7),
        (GenerationSettings(0, suppressed=(7, 6)), [0, 1], 5),
        (GenerationSettings(0, suppressed_first=(7,)), [0], 6),
        (GenerationSettings(0, suppressed_first=(7,)), [0, 1], 7),
        (GenerationSettings(0, forced_first=3), [0], 3),
        (GenerationSettings(0, forced_first=3), [0, 3], 7),
        (GenerationSettings(0, forced_last=2, longest=4), [0, 1, 1], 2),
        (GenerationSettings(0, forced_last=2, longest=4), [0, 1], 7),
        (GenerationSettings(0, repeat=2), [0, 6, 7, 6], 6),  # 6 7 was there already
        (GenerationSettings(0, repeat=3), [0, 6, 7, 6], 7),
        (GenerationSettings(0, repeat=1), [0, 7, 6], 5),
    ],
)
def test_the_best_token_that_is_allowed(
    settings: GenerationSettings, made: list[int], best: int
) -> None:
    before = LOGITS.copy()
    assert int(settings.allowed(LOGITS, made, 1).argmax()) == best
    assert np.array_equal(LOGITS, before)


def test_they_agree_with_the_library(tmp_path: Path) -> None:
    """The rules of transformers, on drawn logits."""
    import torch
    from transformers import (
        ForcedBOSTokenLogitsProcessor,
        LogitsProcessorList,
        NoRepeatNGramLogitsProcessor,
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
    )

    settings = GenerationSettings(0, suppressed=(1, 4), suppressed_first=(2,), repeat=2)
    rules = LogitsProcessorList([
        NoRepeatNGramLogitsProcessor(2),
        SuppressTokensLogitsProcessor([1, 4]),
        SuppressTokensAtBeginLogitsProcessor([2], begin_index=1),
    ])  # fmt: skip
    forced = ForcedBOSTokenLogitsProcessor(3)
    drawn = np.random.default_rng(0)
    for length in range(1, 12):
        made = [0, *drawn.integers(8, size=length - 1).tolist()]
        logits = drawn.normal(size=8).astype(np.float32)
        ids, given = torch.tensor([made]), torch.from_numpy(logits.copy())[None]
        assert np.array_equal(settings.allowed(logits, made, 1), rules(ids, given)[0].numpy())  # type: ignore[arg-type]  # its own alias of Tensor
    with_language = GenerationSettings(0, forced_first=3)
    wanted = forced(torch.tensor([[0]]), torch.from_numpy(LOGITS.copy())[None])[0].numpy()
    assert np.array_equal(with_language.allowed(LOGITS, [0], 1), wanted)
