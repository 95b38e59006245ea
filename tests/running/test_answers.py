"""What outputs say, in the terms of a task."""

from __future__ import annotations

import numpy as np
import pytest

from awqc.running import answers
from awqc.running.pooling import Pooling

NAMES = {0: "cat", 1: "dog", 2: "cow"}


def test_classes_come_with_their_probabilities() -> None:
    answer = answers.classes({"logits": np.log(np.array([[0.2, 0.7, 0.1]]))}, NAMES)
    assert answer.text == "dog 70.0%  cat 20.0%  cow 10.0%"
    assert answer.content[0] == {"label": "dog", "score": pytest.approx(0.7)}


def test_a_class_without_a_name_is_a_number() -> None:
    assert answers.classes({"logits": np.array([[0.0, 9.0]])}, {}).content[0]["label"] == "1"


def test_each_token_has_its_label() -> None:
    logits = np.array([[[9, 0, 0], [0, 0, 9]]])
    assert answers.tokens({"logits": logits}, NAMES, ["Tom", "moos"]).text == "Tom/cat  moos/cow"


def test_a_transcript_is_of_the_likeliest_tokens() -> None:
    logits = np.eye(4)[None, [1, 1, 0, 3]]
    answer = answers.transcript({"logits": logits}, lambda ids: "-".join(map(str, ids)))
    assert answer.text == "1-1-0-3"


def test_words_for_a_mask_come_at_its_place() -> None:
    logits = np.log(np.array([[[0.9, 0.05, 0.05], [0.1, 0.3, 0.6]]]))
    answer = answers.words_for_masks({"logits": logits}, np.array([[7, 4]]), 4, lambda i: NAMES[i])
    assert [one["word"] for one in answer.content[0]] == ["cow", "dog", "cat"]
    nothing = answers.words_for_masks({"logits": logits}, np.array([[7, 7]]), 4, lambda i: NAMES[i])
    assert nothing.content == []
    assert "no mask" in nothing.text


def test_an_embedding_is_pooled_or_the_mean_of_tokens() -> None:
    states = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
    pooled = answers.embedding(
        {"last_hidden_state": states, "pooler_output": np.array([[5.0, 6.0]])}, None
    )
    assert pooled.content == [5.0, 6.0]
    both = {"pooler_output": np.array([[5.0, 6.0]]), "text_embeds": np.array([[7.0, 8.0]])}
    assert answers.embedding({"input_embeds": states, **both}, None).content == [7.0, 8.0]
    mean = answers.embedding({"last_hidden_state": states}, np.array([[1, 1, 0]]))
    assert mean.content == [2.0, 3.0]


def test_other_outputs_are_told_by_size_and_range() -> None:
    answer = answers.shapes({"depth": np.array([[1.0, 3.0]])})
    assert answer.text == "depth [1, 2]: 1 to 3"


def test_a_vector_that_the_graph_makes_is_the_answer_whatever_the_files_say() -> None:
    outputs = {"token_embeddings": np.ones((1, 3, 2)), "sentence_embedding": np.array([[3.0, 4.0]])}
    found = answers.embedding(outputs, np.ones((1, 3)), Pooling(("cls",)))
    assert found.content == [3.0, 4.0]
