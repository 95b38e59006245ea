"""A compiled folder measured on data in its task's own terms, beside its original and the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from awqc.data.load import DataSource
from awqc.data.media import choose_samples
from awqc.errors import UsageError, spelled
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating import Generating
from awqc.huggingface.samples import Sample
from awqc.huggingface.tasks import find_task
from awqc.machine.progress import stage, track
from awqc.program import Program
from awqc.running.measures import OutputMeasure
from awqc.running.runner import Runner
from awqc.runtimes.ort_model import Array
from awqc.sources.folders import with_adapter
from awqc.verify.words import word_error_rate

SAMPLES = 64
"""That are judged where no number is asked for."""
NEW_TOKENS = 64
"""That a model generates for a sample, likewise."""
COMPILED, ORIGINAL = "compiled", "original"
EXAMPLES = 3
"""Pairs of different texts that are shown."""

Outputs = dict[str, Array]


class _Model(Protocol):
    """A model that is measured: by texts, if it writes such, or by outputs."""

    def text(self, sample: Sample, inputs: Mapping[str, Tensor]) -> str | None:
        """What it writes; None where it writes nothing."""
        ...

    def outputs(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """What it gives, where it writes nothing."""
        ...


@dataclass
class _Compiled:
    runner: Runner
    most: int

    def text(self, sample: Sample, inputs: Mapping[str, Tensor]) -> str | None:
        return self.runner.text(inputs)

    def outputs(self, inputs: Mapping[str, Tensor]) -> Outputs:
        return self.runner.outputs(inputs)


@dataclass
class _Graph:
    """The original of one graph, as it is captured."""

    runner: Runner
    program: Program

    def text(self, sample: Sample, inputs: Mapping[str, Tensor]) -> str | None:
        return self.runner.transcript(self.outputs(inputs))

    def outputs(self, inputs: Mapping[str, Tensor]) -> Outputs:
        lacking = [spec.name for spec in self.program.inputs if spec.name not in inputs]
        if lacking:
            raise UsageError(
                f"{self.program.name}: needs {lacking[0]}, which the compiled model's processor "
                "does not make: it is the original of another model"
            )
        made = self.program.run(inputs)
        named = zip(self.program.outputs, made, strict=True)
        return {name: value.float().numpy() for name, value in named}


@dataclass
class _Generates:
    """The original of several graphs, as its own code runs it."""

    model: Generating
    most: int

    def text(self, sample: Sample, inputs: Mapping[str, Tensor]) -> str | None:
        own = self.model.inputs([sample])
        return self.model.decode(self.model.new_tokens(own, self.most))

    def outputs(self, inputs: Mapping[str, Tensor]) -> Outputs:
        return {}


@dataclass
class _Scores:
    """What a model says, against the truth and against the original."""

    true_texts: list[tuple[str, str]] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    right: int = 0
    labelled: int = 0
    measures: dict[str, OutputMeasure] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.true_texts:
            found["word_error_rate"] = word_error_rate(self.true_texts)
        if self.labelled:
            found["accuracy"] = self.right / self.labelled
        if self.pairs:
            found["same_texts"] = sum(now == was for now, was in self.pairs) / len(self.pairs)
            found["word_error_rate_to_original"] = word_error_rate(self.pairs)
            different = [{COMPILED: now, ORIGINAL: was} for now, was in self.pairs if now != was]
            found["different"] = different[:EXAMPLES]
        if self.measures:
            found["outputs"] = {name: each.as_dict() for name, each in self.measures.items()}
        return found


def writes_on(model: Path, task: str | None) -> bool:
    """Whether ``model`` is to be measured as a causal language model: all that is not compiled too.

    Raises:
        UsageError: its configuration is damaged, or there is no such task.
    """
    if not (model / "report.json").is_file() or not (model / "config.json").is_file():
        return True
    return find_task(HFFolder(model).config(), task, where=str(model)).cached


def evaluate_task(
    folder: Path,
    data: Path,
    *,
    against: Path | None = None,
    task: str | None = None,
    num_samples: int | None = None,
    max_new_tokens: int | None = None,
    provider: str = "cpu",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Measure the compiled model in ``folder`` on ``data``.

    Args:
        folder: what ``awqc compile`` wrote for a Hugging Face folder.
        data: as for calibration; ``.jsonl`` and tables may also say what is right: a transcript
            (``text``) beside audio, a ``target`` beside a text, a ``label``.
        against: the original's folder.
        task: as in compile, where it is not recognised.
        num_samples: that are judged; None: `SAMPLES`.
        max_new_tokens: that are generated for a sample; None: `NEW_TOKENS`.
        provider: where onnxruntime runs.
        trust_remote_code: whether Python files of ``against`` may run.

    Raises:
        UsageError: a folder is not what it should be, or there is nothing to compare with.
        CalibrationError: a file is damaged or empty.
    """
    most = max_new_tokens or NEW_TOKENS
    runner = Runner(folder, task=task, provider=provider, max_new_tokens=most)
    models: dict[str, _Model] = {COMPILED: _Compiled(runner, most)}
    if against is not None:
        with stage("load the original …"):
            models[ORIGINAL] = _original(against, runner, most, trust_remote_code)
    source = DataSource.of(data)
    given = source.media or source.text
    if given is None:
        raise UsageError(
            f"{data}: holds arrays; give {' and '.join(runner.task.reads)}, which the model reads"
        )
    chosen = choose_samples(
        runner.processor, given, str(data), folder.name, num_samples or SAMPLES, seed=0
    )
    scores = {name: _Scores() for name in models}
    count = 0
    for sample in track(chosen.samples, "evaluate", chosen.count):
        _judge(runner, models, scores, sample)
        count += 1
    found = {name: each.as_dict() for name, each in scores.items()}
    if not any(found.values()):
        raise UsageError(
            f"{folder}: there is nothing to compare with: give the original "
            f"({spelled('against', 'MODEL')}), or data that says what is right: .jsonl or a table "
            "with label, target, or text beside audio"
        )
    return {
        "data": str(data),
        "task": runner.task.name,
        "samples": count,
        "notes": [*chosen.notes, *chosen.reader.notes()],
        "models": found,
    }


def _original(against: Path, runner: Runner, most: int, trust_remote_code: bool) -> _Model:
    path, _ = with_adapter(against, None, trust_remote_code)
    if runner.task.several:
        folder = HFFolder.at(path, trust_remote_code=trust_remote_code)
        return _Generates(Generating.load(folder, runner.task), most)
    program = load_folder(path, task=runner.task.name, trust_remote_code=trust_remote_code)
    return _Graph(runner, program)


def _judge(
    runner: Runner, models: Mapping[str, _Model], scores: Mapping[str, _Scores], sample: Sample
) -> None:
    """Take in what the models say of ``sample``."""
    inputs = runner.processor.inputs([sample])
    texts: dict[str, str] = {}
    outputs: dict[str, Outputs] = {}
    for name, model in models.items():
        text = model.text(sample, inputs)
        if text is None:
            outputs[name] = model.outputs(inputs)
            _check_label(runner, scores[name], outputs[name], sample)
        else:
            texts[name] = text
            if isinstance(sample.wanted, str):
                scores[name].true_texts.append((text, sample.wanted))
    if ORIGINAL not in models:
        return
    if ORIGINAL in texts:
        scores[COMPILED].pairs.append((texts[COMPILED], texts[ORIGINAL]))
        return
    was = runner.compared(inputs, outputs[ORIGINAL])
    for name, value in runner.compared(inputs, outputs[COMPILED]).items():
        if name in was:
            measure = scores[COMPILED].measures.setdefault(name, OutputMeasure(name))
            measure.add(value, was[name])


def _check_label(runner: Runner, scores: _Scores, outputs: Outputs, sample: Sample) -> None:
    """Whether the likeliest class is the one that the data says, a name or a number."""
    logits = outputs.get("logits")
    if sample.wanted is None or logits is None or logits.size != logits.shape[-1]:
        return
    best = int(np.argmax(logits.reshape(-1)))
    wanted = runner.class_number(sample.wanted)
    scores.labelled += 1
    scores.right += best == wanted
