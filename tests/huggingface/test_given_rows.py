"""Tokens that have, beside images, another row than the table's."""

from __future__ import annotations

from pathlib import Path

import torch

from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating import Generating
from awqc.huggingface.given_rows import GivenRows
from awqc.huggingface.prompted_parts import _embed
from awqc.huggingface.prompted_run import PROMPTS, PromptedRun
from awqc.huggingface.tasks import find_task
from benchmarks.folder_models import MODELS


def test_they_are_found_among_all_tokens_those_of_no_example_included(tmp_path: Path) -> None:
    """Examples show marks of images that are whole, and not those of images cut into pieces.

    Such a token that the model makes itself has its usual row: both go into the graph.
    """
    MODELS["image-text-to-text/ovis2"].save(tmp_path)
    folder = HFFolder.at(tmp_path)
    generating = Generating.load(folder, find_task(folder.config(), None, where="ovis2"))
    run = PromptedRun.of(generating, *PROMPTS[0])
    given = GivenRows.of(generating, run)
    marks = generating.model.config.visual_indicator_token_ids
    assert given.tokens.tolist() == sorted(marks)
    assert set(run.tokens.unique().tolist()) & set(marks) < set(marks)
    tokens = torch.tensor([[5, marks[-1]]])
    rows = given.put_among(tokens, torch.zeros(1, 2, run.merged.shape[-1]))
    assert torch.equal(rows[0, 1], given.rows[-1])
    assert not rows[0, 0].any()
    program = _embed(generating, [run, PromptedRun.of(generating, *PROMPTS[1])])
    assert program.outputs == ("inputs_embeds", "text_rows")
    marked, usual = program.run({"input_ids": tokens})
    with torch.no_grad():
        assert torch.equal(usual, generating.model.get_input_embeddings()(tokens))
    assert torch.equal(marked, given.put_among(tokens, usual))
