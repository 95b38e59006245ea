"""Texts with an image in them, as a processor takes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from awqc.huggingface.prompts import image_mark, prompt_inputs
from awqc.huggingface.samples import Sample
from benchmarks.folder_models import word_tokenizer

SAMPLES = [Sample("one", "t5 t6 t7", "image 1"), Sample("two", "t8", "image 2")]


class Asked:
    """A processor that tells what it is asked."""

    image_token = "<image>"

    def __init__(self, template: str | None = None) -> None:
        self.chat_template, self.tokenizer = template, word_tokenizer()

    def __call__(self, **given: Any) -> Any:
        return given

    def apply_chat_template(self, chats: Any, **given: Any) -> Any:
        return {"chats": chats, **given}


def asked(processor: Any, samples: list[Sample], tokens: int | None) -> Any:
    return prompt_inputs(processor, samples, tokens, image_mark(processor, samples[0]))


def test_without_a_template_the_image_token_stands_before_the_text() -> None:
    made = asked(Asked(), SAMPLES, None)
    assert made["text"] == ["<image> t5 t6 t7", "<image> t8"]
    assert made["images"] == [["image 1"], ["image 2"]]
    assert made["padding"]
    assert "padding" not in asked(Asked(), SAMPLES[:1], None)


def test_a_chat_template_is_asked_for_an_answer() -> None:
    made = asked(Asked("a template"), SAMPLES[:1], None)
    ((message,),) = made["chats"]
    assert message["role"] == "user"
    assert message["content"] == [
        {"type": "image", "image": "image 1"},
        {"type": "text", "text": "t5 t6 t7"},
    ]
    assert made["add_generation_prompt"]


def test_only_the_text_is_cut() -> None:
    made = asked(Asked(), SAMPLES, 2)
    assert made["text"] == ["<image> t5 t6", "<image> t8"]


class Flat(Asked):
    """One that takes no lists in a list."""

    def __call__(self, **given: Any) -> Any:
        if any(isinstance(each, list) for each in given["images"]):
            raise ValueError("Nested images are only supported for several pages.")
        return given


def test_images_are_one_list_where_a_processor_takes_no_other() -> None:
    made = asked(Flat(), SAMPLES, None)
    assert made["images"] == ["image 1", "image 2"]
    assert made["text"] == ["<image> t5 t6 t7", "<image> t8"]
    two = Sample("two", "t8", "image 2", more=("image 3",))
    with pytest.raises(ValueError, match="Nested images"):
        asked(Flat(), [two], None)


class Putting(Asked):
    """One that puts its own image tokens before a text, whatever is in it."""

    image_token = AddedToken("t9")  # type: ignore[assignment]  # as some processors have it

    def __call__(self, **given: Any) -> Any:
        ids = [self.tokenizer(f"t9 t9 {text}")["input_ids"] for text in given["text"]]
        return {**given, "input_ids": torch.tensor(ids) if len(ids) == 1 else ids}


def test_a_processor_that_puts_image_tokens_itself_gets_the_text_alone() -> None:
    assert asked(Putting(), SAMPLES, None)["text"] == [" t5 t6 t7", " t8"]
    assert asked(Counting(), SAMPLES, None)["text"] == [" t5 t6 t7", " t8"]
    assert asked(Reading(), SAMPLES, None)["text"] == ["t9 t5 t6 t7", "t9 t8"]


class Counting(Putting):
    """One that counts them after it has put its own."""

    def __call__(self, **given: Any) -> Any:
        if any("t9" in text for text in given["text"]):
            raise ValueError("Found total 2 image tokens and 1 images.")
        return super().__call__(**given)


class Reading(Asked):
    """One that makes two of each image token in a text."""

    image_token = "t9"

    def __call__(self, **given: Any) -> Any:
        ids = [self.tokenizer(text.replace("t9", "t9 t9"))["input_ids"] for text in given["text"]]
        return {**given, "input_ids": torch.tensor(ids) if len(ids) == 1 else ids}
