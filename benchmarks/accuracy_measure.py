"""One way to measure every model of the accuracy table.

A language model: perplexity on token ids, KL divergence from the float model's predictions, and how
often the likeliest word is the same. A sentence encoder: 1 - cosine to the float model's
embeddings, and the rank correlation of the similarities of all pairs of sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from awqc.verify.text_quality import TextQuality

Run = Callable[[Tensor, Tensor], Tensor]
"""Logits, or the last hidden state, of token ids and their mask, each ``(rows, tokens)``."""

LINES = 32


@dataclass(frozen=True)
class Tokens:
    """Token ids and their mask, int64 ``(rows, tokens)``."""

    ids: Tensor
    mask: Tensor

    @classmethod
    def load(cls, path: Path) -> Tokens:
        """From a file that `save` wrote."""
        arrays = np.load(path)
        return cls(torch.from_numpy(arrays["ids"]), torch.from_numpy(arrays["mask"]))

    def save(self, path: Path) -> None:
        """Write a .npz file."""
        np.savez(path, ids=self.ids.numpy(), mask=self.mask.numpy())

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Pieces of ``size`` rows, cut where every row is padding."""
        made = []
        for ids, mask in zip(self.ids.split(size), self.mask.split(size), strict=True):
            longest = int(mask.sum(1).max())
            made.append((ids[:, :longest], mask[:, :longest]))
        return made


def transformers_model(folder: Path, weights: Path | None, *, causal: bool) -> nn.Module:
    """The float model of ``folder`` with the tensors in ``weights`` in place of its own.

    Raises:
        ValueError: ``weights`` has a name that the model has not.
    """
    loader = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    model: nn.Module = loader.from_pretrained(folder, dtype=torch.float32).eval()
    if weights is not None:
        unknown = model.load_state_dict(load_file(weights), strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"the model has no {unknown[0]}")
    return model


def run_of(model: nn.Module, *, causal: bool) -> Run:
    """How a transformers model is run."""

    @torch.no_grad()
    def run(ids: Tensor, mask: Tensor) -> Tensor:
        if causal:
            found: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        else:
            found = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return found

    return run


def quality(run: Run, text: Tokens, reference: Path | None = None) -> dict[str, float]:
    """Of a language model: perplexity, and the distance to the float model's predictions."""
    found = TextQuality()
    wanted = None if reference is None else np.load(reference, mmap_mode="r")
    for index, (ids, mask) in enumerate(text.batches(1)):
        row = None if wanted is None else torch.from_numpy(wanted[index : index + 1])
        found.add(run(ids, mask), ids, mask, row)
    measured = {"perplexity": found.perplexity}
    if wanted is not None:
        measured["kl"] = found.divergence / found.compared
        measured["same_top"] = found.agreed / found.compared
    return measured


def keep_predictions(run: Run, text: Tokens, path: Path) -> None:
    """Keep a language model's log-likelihoods of all words, in 16 bits: ``(rows, tokens, words)``.

    Rounding moves a likelihood by half a thousandth of its logarithm: a KL divergence by some 1e-6.
    """
    partial = path.with_suffix(".partial.npy")
    kept = None
    for index, (ids, mask) in enumerate(text.batches(1)):
        scores = run(ids, mask)[0].log_softmax(-1)
        if kept is None:
            shape = (len(text.ids), *scores.shape)
            kept = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
        kept[index] = scores.half().numpy()
    del kept
    partial.replace(path)


def embeddings(run: Run, text: Tokens) -> Tensor:
    """Mean of the token vectors that are no padding, normalised: ``(lines, width)``."""
    rows = []
    for ids, mask in text.batches(LINES):
        weight = mask.unsqueeze(-1).float()
        rows.append((run(ids, mask) * weight).sum(1) / weight.sum(1))
    return nn.functional.normalize(torch.cat(rows), dim=-1)


def compare(found: Tensor, reference: Tensor) -> dict[str, float]:
    """How far embeddings ``(lines, width)`` are from the float model's."""
    rows, columns = torch.triu_indices(len(found), len(found), offset=1)
    pairs = [(vectors @ vectors.T)[rows, columns] for vectors in (found, reference)]
    ranks = torch.stack([pair.argsort().argsort().double() for pair in pairs])
    return {
        "distance": float((1 - (found * reference).sum(-1)).mean()),
        "rank_correlation": float(torch.corrcoef(ranks)[0, 1]),
    }


def measure(run: Run, text: Tokens, reference: Path | None, *, causal: bool) -> dict[str, Any]:
    """`quality` of a language model, else the distance to the float model's embeddings.

    ``reference`` is the file of its predictions (`keep_predictions`) or embeddings.
    """
    if causal:
        return dict(quality(run, text, reference))
    assert reference is not None
    return dict(compare(embeddings(run, text), torch.load(reference)))
