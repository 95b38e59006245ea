"""Rows that stand for a token beside images, and are not those of the table of tokens.

As where marks around an image have rows of their own, which the model keeps with what sees images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from awqc.errors import CaptureError
from awqc.huggingface.generating import TOKENS, Generating
from awqc.huggingface.prompted_run import PromptedRun, record_prompt
from awqc.recording.merge import Merge

AT_ONCE = 1 << 14
"""Tokens whose rows are looked at in one run of the model, whose decoder does not run."""


@dataclass(frozen=True)
class GivenRows:
    """Some tokens, ``(count,)``, and the row of each, ``(count, width)``."""

    tokens: Tensor
    rows: Tensor

    @classmethod
    def of(cls, generating: Generating, run: PromptedRun) -> GivenRows:
        """Those of all tokens of the table but that of images; none, where ``run`` has none.

        Raises:
            CaptureError: the row of a token is another for another image.
        """
        merge = run.merge
        table = generating.model.get_submodule(merge.embedding)
        found = [(torch.empty(0, dtype=torch.long), torch.empty(0, run.merged.shape[-1]))]
        for some in _all_tokens(table, merge) if merge.replaced else ():
            inputs = _behind(run.inputs, some)
            own = record_prompt(generating, merge, inputs).merged[:, -len(some) :]
            with torch.no_grad():
                other = (own != table(some)).any(dim=-1).any(dim=0)
            if bool((own != own[:1]).any()):
                raise CaptureError(
                    f"{generating.folder.path}: rows of tokens that stand for no image are others "
                    "for another image; a table of them can have one row a token"
                )
            found.append((some[other], own[0, other]))
        return cls(*(torch.cat(each) for each in zip(*found, strict=True)))

    def put_among(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """``rows``, ``(batch, tokens, width)``, with those of these tokens in place of others."""
        for token, row in zip(self.tokens.tolist(), self.rows, strict=True):
            rows = torch.where((tokens == token).unsqueeze(-1), row, rows)
        return rows


def _all_tokens(table: nn.Module, merge: Merge) -> Iterator[Tensor]:
    count = len(next(table.parameters()))
    tokens = torch.arange(count)
    yield from tokens[tokens != merge.token].split(AT_ONCE)


def _behind(inputs: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """``inputs`` with ``tokens`` behind the text of each sample."""
    shape, count = inputs[TOKENS].shape, len(tokens)

    def longer(name: str, value: Tensor) -> Tensor:
        if value.shape != shape:
            return value
        more = tokens if name == TOKENS else value[:, -1:]
        return torch.cat([value, more.expand(len(value), count)], dim=1)

    return {name: longer(name, value) for name, value in inputs.items()}
