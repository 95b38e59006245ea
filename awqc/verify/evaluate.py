"""Perplexity of language models on a text, and how far a compiled one is from its original."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from awqc.data.text_batches import TextModel, packed_text
from awqc.errors import UsageError, spelled
from awqc.huggingface.capture import load_folder
from awqc.huggingface.config_values import context_length
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.tokens import token_batch
from awqc.machine.progress import track
from awqc.program import Batch, InputSpec, Program
from awqc.runtimes.base import LoadedModel
from awqc.runtimes.onnxruntime import DEFAULT, EXACT, Provider, Session
from awqc.sources.source import load_program as load_archive
from awqc.verify.text_quality import TextQuality

LOGITS = "logits"
SEQUENCES, SEQ_LEN = 32, 512


class Scorer(Protocol):
    """A model that gives logits for a batch of tokens."""

    name: str
    inputs: tuple[InputSpec, ...]
    states: tuple[tuple[str, str], ...]

    def logits(self, batch: Batch) -> Tensor:
        """``(batch, tokens, vocabulary)``."""
        ...


@dataclass
class ProgramScorer:
    """A program, run by torch; ``batch`` has the names of ``inputs``, in the program's order."""

    name: str
    program: Program
    inputs: tuple[InputSpec, ...]
    states: tuple[tuple[str, str], ...]
    index: int

    def logits(self, batch: Batch) -> Tensor:
        """As in `Scorer`."""
        own = [spec.name for spec in self.program.inputs]
        renamed = dict(zip(own, (batch[spec.name] for spec in self.inputs), strict=True))
        return self.program.run(renamed)[self.index]


class LoadedScorer:
    """A compiled model in a runtime."""

    def __init__(self, name: str, model: LoadedModel) -> None:
        self.name, self.inputs, self.states = name, model.inputs, model.states
        self._model = model

    def logits(self, batch: Batch) -> Tensor:
        """As in `Scorer`."""
        return self._model.run(batch, only=[LOGITS])[0]


def evaluate(
    model: Path,
    text: Path,
    *,
    against: Path | None = None,
    num_samples: int | None = None,
    seq_len: int | None = None,
    provider: Provider = "auto",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Measure ``model`` on ``text``, packed into sequences.

    Args:
        model: a Hugging Face folder or GGUF file, or the output folder of a compile.
        text: a .txt, .md or .jsonl file.
        against: the original's folder; gives KL divergence and top-1 agreement.
        num_samples: sequences; ``seq_len`` tokens each.
        seq_len: None: 512, or what the model takes.
        provider: where onnxruntime runs.
        trust_remote_code: whether Python files in the folders may run.

    Raises:
        UsageError: a folder is not what it should be.
        CalibrationError: the text is unusable.
    """
    scorers: list[Scorer] = []
    if (model / "report.json").is_file():
        scorers += list(_compiled(model, provider))
    else:
        name = "original" if against is None else "model"
        scorers.append(_causal_model(name, model, trust_remote_code))
    if against is not None:
        scorers.insert(0, _causal_model("original", against, trust_remote_code))
    tokenizer = _text_model(against or model, scorers[0], trust_remote_code)
    length = tokenizer.sequence_length(seq_len)
    sequences = packed_text(tokenizer, text, num_samples or SEQUENCES, length)
    scores = {scorer.name: TextQuality() for scorer in scorers}
    rows = list(zip(sequences.ids.split(1), sequences.mask.split(1), strict=True))
    for row, mask in track(rows, "evaluate"):
        reference = None
        for scorer in scorers:
            logits = scorer.logits(token_batch(scorer, row, mask))
            scores[scorer.name].add(logits, row, mask, reference)
            if against is not None and reference is None:
                reference = logits
    return {
        "text": text.name,
        "sequences": len(sequences),
        "seq_len": length,
        "models": {name: score.as_dict() for name, score in scores.items()},
    }


def _causal_model(name: str, folder: Path, trust_remote_code: bool) -> Scorer:
    program = load_folder(folder, trust_remote_code=trust_remote_code)
    if LOGITS not in program.head_outputs or not program.states:
        raise UsageError(f"{folder}: is no causal language model; eval measures those")
    return _program_scorer(name, program, program.inputs, program.states, LOGITS)


def _program_scorer(
    name: str,
    program: Program,
    inputs: tuple[InputSpec, ...],
    states: tuple[tuple[str, str], ...],
    output: str,
) -> Scorer:
    return ProgramScorer(name, program, inputs, states, program.outputs.index(output))


def _compiled(folder: Path, provider: Provider) -> Iterator[Scorer]:
    """The compiled forms in ``folder``: the archive, and ONNX at both levels."""
    path = folder / "model.onnx"
    if not path.is_file():
        raise UsageError(f"{folder}: has no model.onnx; compile with {spelled('formats', 'onnx')}")
    exact, default = (Session(path, provider, level) for level in (EXACT, DEFAULT))
    if LOGITS not in exact.outputs or not exact.states:
        raise UsageError(f"{folder}: is no causal language model; eval measures those")
    archive = folder / "model.pt2"
    if archive.is_file():
        program, names = load_archive(archive), (exact.inputs, exact.states)
        yield _program_scorer("graph module", program, *names, program.outputs[0])
    yield LoadedScorer("onnx, exact level", exact)
    yield LoadedScorer("onnx, default level", default)


def _text_model(folder: Path, scorer: Scorer, trust_remote_code: bool) -> TextModel:
    source = HFFolder(folder, gguf_file=None, trust_remote_code=trust_remote_code)
    if folder.is_file() or not (folder / "config.json").is_file():
        source = HFFolder.at(folder, trust_remote_code=trust_remote_code)
    tokenizer = source.tokenizer()
    return TextModel(
        tokenizer, context_length(source.config()), len(tokenizer), cached=bool(scorer.states)
    )
