"""A text with an image in it, as a processor takes it: by its chat template, or its image token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from awqc.huggingface.samples import Sample


def prompt_inputs(processor: Any, samples: Sequence[Sample], tokens: int | None, mark: str) -> Any:
    """What ``processor`` makes of ``samples``, an image or several and a text behind in each.

    A processor with a chat template is asked as in a chat; another one is given its `image_mark`,
    once for each image, and then the text. Images are a list for each text, or one list where the
    processor does not take that. Texts are cut after ``tokens``.
    """
    texts = [_cut(processor, sample.text or "", tokens) for sample in samples]
    images = [sample.images for sample in samples]
    padded = {"padding": True} if len(samples) > 1 else {}
    if getattr(processor, "chat_template", None):
        chats = [_chat(each, text) for each, text in zip(images, texts, strict=True)]
        return processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt", processor_kwargs=padded,
        )  # fmt: skip
    marked = [f"{mark * len(each)} {text}" for each, text in zip(images, texts, strict=True)]
    return _plainly(processor, marked, images, padded)


def image_mark(processor: Any, sample: Sample) -> str:
    """What stands in a text for an image: the image token of ``processor``, or nothing.

    Nothing, where there is none, or where the processor puts as many as it needs before a text that
    has none; there are more of them, then, where the text has one of its own, or it is refused. It
    is tried with the image of ``sample``.
    """
    mark = str(getattr(processor, "image_token", None) or "")
    if not mark or getattr(processor, "chat_template", None):
        return mark
    token = processor.tokenizer.convert_tokens_to_ids(mark)

    def count(text: str) -> int | None:
        try:
            made = _plainly(processor, [f"{text} "], [sample.images[:1]], {})
        except Exception:  # noqa: BLE001 - a text that is not as it must be may fail in any way
            return None
        ids = made.get("input_ids")
        return None if ids is None else int((ids == token).sum())

    without, one = count(""), count(mark)
    return "" if without and (one is None or without < one) else mark


def _plainly(
    processor: Any, texts: list[str], images: Sequence[Sequence[Any]], settings: dict[str, Any]
) -> Any:
    """What ``processor`` makes of each of ``texts`` with its images."""

    def made(shown: list[Any]) -> Any:
        return processor(text=list(texts), images=shown, return_tensors="pt", **settings)

    try:
        return made([list(each) for each in images])
    except ValueError:
        if any(len(each) != 1 for each in images):
            raise
        return made([image for (image,) in images])


def added_tokens(tokenizer: Any) -> set[int]:
    """Tokens that stand for something else than text, such as an image."""
    return set(tokenizer.get_added_vocab().values())


def _chat(images: Sequence[Any], text: str) -> list[dict[str, Any]]:
    shown = [{"type": "image", "image": image} for image in images]
    content = [*shown, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def _cut(processor: Any, text: str, tokens: int | None) -> str:
    if tokens is None:
        return text
    tokenizer = processor.tokenizer
    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=tokens)
    cut: str = tokenizer.decode(ids["input_ids"])
    return cut
