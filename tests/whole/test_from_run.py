"""`awqc.compile(model, run=…)`: parts found in what a function of the caller's runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import awqc
from awqc.errors import CaptureError, UsageError, VerificationError
from awqc.options import parse_options
from awqc.runtimes.loading import load
from awqc.whole import recorded_run
from awqc.whole.compiling import CompiledBundle
from tests.whole.pipes import Pipe, draw

CHEAP: dict[str, Any] = {
    "effort": "fast",
    "provider": "cpu",
    "formats": ("onnx",),
    "group_size": 32,
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompiledBundle, Path, Pipe]:
    pipe, target = Pipe(), tmp_path_factory.mktemp("pipe") / "out"
    return awqc.compile(pipe, run=draw, output_dir=target, **CHEAP), target, pipe


def test_parts_are_what_the_run_calls(compiled: tuple[CompiledBundle, Path, Pipe]) -> None:
    bundle, target, _ = compiled
    assert list(bundle.parts) == ["texts", "denoiser", "coder_decode"]
    assert bundle.report["calls"] == {"texts": 6, "denoiser": 17, "coder_decode": 6}
    assert json.loads((target / "bundle.json").read_text())["model"] == "Pipe"
    model = onnx.load(target / "denoiser" / "model.onnx")
    assert [value.name for value in model.graph.input] == ["sample", "step", "states"]
    sizes = [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes[0] == "batch"
    assert sizes[2] != sizes[3] != ""


def test_what_flows_from_part_to_part_is_told(
    compiled: tuple[CompiledBundle, Path, Pipe],
) -> None:
    assert compiled[0].report["wiring"] == [{"source": "texts.output", "target": "denoiser.states"}]


def test_the_whole_is_run_with_the_compiled_parts(
    compiled: tuple[CompiledBundle, Path, Pipe],
) -> None:
    outputs = compiled[0].report["run"]["outputs"]
    assert len(outputs) == 6
    assert all(0.9 < gap["cosine"] < 1 for gap in outputs.values())


def test_a_part_runs_at_sizes_that_were_not_seen(
    compiled: tuple[CompiledBundle, Path, Pipe],
) -> None:
    _, target, pipe = compiled
    sample, states = torch.randn(5, 4, 9, 11), torch.randn(5, 3, 32)
    with torch.no_grad():
        wanted = pipe.denoiser(sample, torch.tensor(1), states)[0]
    batch = {"sample": sample, "step": torch.tensor(1), "states": states}
    (found,) = load(target / "denoiser", "cpu").run(batch)
    assert float((found - wanted).norm() / wanted.norm()) < 0.2


def test_the_model_is_not_changed(compiled: tuple[CompiledBundle, Path, Pipe]) -> None:
    pipe, fresh = compiled[2], Pipe()
    for one, two in zip(pipe.denoiser.parameters(), fresh.denoiser.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.requires_grad
    assert "forward" not in vars(pipe.denoiser)


def test_named_parts_alone_are_compiled() -> None:
    bundle = awqc.compile(Pipe(), run=draw, part={"paint": "coder.decode"}, **CHEAP)
    assert list(bundle.parts) == ["paint"]
    bundle = awqc.compile(Pipe(), run=draw, part={"up": "coder.after"}, **CHEAP)
    assert bundle.report["calls"] == {"up": 6}  # inside of what was the part before
    with pytest.raises(CaptureError, match="name no part inside of another one"):
        awqc.compile(Pipe(), run=draw, part={"all": "coder.decode", "up": "coder.after"}, **CHEAP)


class Texty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.line(x)
        return out


def names(model: nn.Module) -> list[str]:
    return [str(int(model(torch.randn(3 + i, 32)).argmax())) for i in range(4)]


def test_texts_are_compared_in_words() -> None:
    ran = awqc.compile(Texty(), run=names, **CHEAP).report["run"]
    assert ran["texts"] == 4
    assert 0 <= ran["word_error_rate"] <= 1


class Chatty(Texty):
    """Says another word each time."""

    said = 0

    def forward(self, x: Tensor) -> Tensor:
        Chatty.said += 1
        return super().forward(x)


def test_a_run_that_says_something_else_again_is_refused() -> None:
    def run(model: nn.Module) -> str:
        model(X)
        model(torch.cat([X, X]))
        return f"word {Chatty.said}"

    with pytest.raises(CaptureError, match="returns something else when it is called again"):
        awqc.compile(Chatty(), run=run, **CHEAP)


def twice(x: Tensor) -> Callable[[nn.Module], object]:
    return lambda model: [model(x), model(torch.cat([x, x]))]


class Stateful(Texty):
    def forward(self, x: Tensor) -> Tensor:
        self.count = getattr(self, "count", 0) + 1
        out: Tensor = self.line(x) * self.count
        return out


class Random(Texty):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.line(x) + torch.randn(x.shape)
        return out


class Noisy(nn.Module):
    """Draws, and has no module inside that could be a part without it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table + torch.randn(x.shape)


class Branches(Texty):
    def forward(self, x: Tensor, factor: float = 1.0, other: Tensor | None = None) -> Tensor:
        out: Tensor = self.line(x) * factor
        return out if other is None else out + other


X = torch.ones(2, 32)


@pytest.mark.parametrize(
    ("model", "run", "error", "says"),
    [
        (Stateful(), twice(X), CaptureError, "returns something else when it is called again"),
        (Noisy(), twice(X), CaptureError, "call 1 gives another result when it is made again"),
        (
            Branches(),
            lambda m: [m(X, 1.0), m(X, 2.0)],
            CaptureError,
            "the argument factor is 1.0 in call 1 and 2.0 in call 2",
        ),
        (
            Branches(),
            lambda m: [m(X), m(X, other=X)],
            CaptureError,
            "is given the tensor other in call 2 and not in call 1",
        ),
        (Branches(), lambda m: [m(X), m(X.double().float()[0])], CaptureError, "float32 of 1 axes"),
        (Texty(), lambda m: m(X), CaptureError, "is called 1 times while run runs; two"),
        (Texty(), lambda m: None, UsageError, "calls no module of Texty"),
        (object(), lambda m: None, UsageError, "no torch module among its attributes"),
        (Texty(), lambda m: m.gone(X), CaptureError, "run: fails on Texty: AttributeError"),
    ],
)
def test_what_cannot_become_parts_is_refused(
    model: Any, run: Callable[[Any], object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        awqc.compile(model, run=run, **CHEAP)


def test_what_draws_is_opened_and_what_it_calls_are_parts() -> None:
    told: list[str] = []
    bundle = awqc.compile(Random(), run=twice(X), notify=lambda n: told.append(n.text), **CHEAP)
    assert list(bundle.parts) == ["line"]
    assert list(bundle.report["opened"]) == ["model"]
    assert any("model is no graph, so what it calls are parts: model: call 1" in t for t in told)
    with pytest.raises(CaptureError, match="call 1 gives another result"):
        awqc.compile(Random(), run=twice(X), part={"all": ""}, **CHEAP)


class Repeats(nn.Module):
    """Gives one tensor at two places, as a last state and the last of all states."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> dict[str, Any]:
        made = torch.relu(self.line(x))
        return {"last": made, "all": [x + 1, made]}


def test_a_tensor_at_two_places_of_a_result_is_one_output() -> None:
    bundle = awqc.compile(Repeats(), run=lambda m: [m(X), m(torch.cat([X, X]))], **CHEAP)
    (part,) = bundle.report["entries"].values()
    assert part["outputs"] == {"last": "last", "all.0": "all.0", "all.1": "last"}


class Counts(Texty):
    """Goes by the number of a value, and no graph does."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.line(x)
        out: Tensor = rows.repeat(int(x.abs().sum()) % 3 + 1, 1)
        return out


def test_what_goes_by_values_is_opened() -> None:
    def run(model: nn.Module) -> list[Tensor]:
        return [model(X[:1] * 2), model(X), model(X * 3)]

    bundle = awqc.compile(Counts(), run=run, **CHEAP)
    assert list(bundle.parts) == ["line"]
    assert "Could not" in bundle.report["opened"]["model"]


def test_calls_with_other_numbers_are_parts_of_their_own() -> None:
    both = torch.cat([X, X])

    def run(model: nn.Module) -> list[Tensor]:
        return [model(x, factor) for factor in (1.0, 2.0) for x in (X, both)]

    bundle = awqc.compile(Branches(), run=run, **CHEAP)
    assert list(bundle.parts) == ["model_factor_1_0", "model_factor_2_0"]
    told = bundle.report["entries"]
    assert [each["numbers"] for each in told.values()] == [{"factor": 1.0}, {"factor": 2.0}]


class Speaks(nn.Module):
    """Makes tokens until one is large, each of which what follows is made of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(64, 32), nn.Linear(32, 64)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.table(ids).cumsum(1))
        return out

    def say(self, ids: Tensor) -> Tensor:
        for _ in range(6):
            ids = torch.cat([ids, self(ids)[:, -1:].argmax(-1)], 1)
        return torch.tanh(self(ids))


def speak(model: Any) -> list[Tensor]:
    return [model.say(torch.arange(place, place + 3 + place)[None]) for place in range(4)]


def test_the_whole_is_judged_by_the_choices_of_the_original() -> None:
    few = {**CHEAP, "bits": 2, "max_loss": 5.0}
    report = awqc.compile(Speaks(), run=speak, **few).report["run"]
    held = report["same_choices"]
    assert held["chosen_otherwise"] > 0
    assert held["answers_of_the_original"] == []
    worst = max(gap["rel"] for gap in report["outputs"].values())
    assert max(gap["rel"] for gap in held["outputs"].values()) < worst


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"calib": [X]}, "calib, example_inputs and observe do not apply"),
        ({"formats": ("gguf",)}, "the format gguf is for models of one graph"),
        ({"inputs": ("x=float32[2]",)}, "inputs does not apply: the model is several graphs"),
        ({"stats": "s.safetensors"}, "stats does not apply"),
        ({"num_samples": 3}, "num_samples does not apply"),
        ({"layout": "transformers.js"}, "layout does not apply"),
        ({"adapter": "lora"}, "adapter does not apply"),
        ({"part": {"a": "gone"}}, "the model has no module gone; at that depth it has line"),
        ({"part": {"a b": "line"}}, "a name of letters, digits and _ is needed"),
        ({"run": None, "part": {"a": "line"}}, "is for models that are run to find their parts"),
        ({"run": 3}, "run is a int; a function of the model is needed"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        awqc.compile(Texty(), **{"run": twice(X), **CHEAP, **options})


class Steps(nn.Module):
    """A decoder with a cache: what it read before comes back as keys and values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.key = nn.Embedding(64, 32), nn.Linear(32, 32)
        self.value, self.head = nn.Linear(32, 32), nn.Linear(32, 64)

    def forward(
        self, ids: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        rows = self.table(ids)
        key, value = self.key(rows), self.value(rows)
        if past is not None:
            key, value = torch.cat([past[0], key], 1), torch.cat([past[1], value], 1)
        seen = torch.softmax(rows @ key.transpose(1, 2), -1) @ value
        return self.head(rows + seen), (key, value)


def in_steps(model: nn.Module) -> list[Tensor]:
    """Logits of a prompt, and of some tokens behind it, for prompts of several sizes."""
    made = []
    for rows, count in ((2, 5), (3, 7), (2, 4), (1, 6), (2, 9)):
        ids = (torch.arange(rows * count) * 7 % 64).reshape(rows, count)
        logits, past = model(ids)
        for step in range(3):
            logits, past = model(ids[:, step : step + 1], past=past)
            made.append(logits)
    return made


def test_calls_of_two_forms_become_two_graphs(tmp_path: Path) -> None:
    bundle = awqc.compile(Steps(), run=in_steps, output_dir=tmp_path / "out", **CHEAP)
    assert list(bundle.parts) == ["model", "model_with_past"]
    assert bundle.report["calls"] == {"model": 5, "model_with_past": 15}
    (rows,) = {gap["cosine"] > 0.95 for gap in bundle.report["run"]["outputs"].values()}
    assert rows
    inputs = {part: [str(spec) for spec in load(tmp_path / "out" / part, "cpu").inputs]
              for part in bundle.parts}  # fmt: skip
    assert [text.partition("=")[0] for text in inputs["model_with_past"]] == [
        "ids", "past.0", "past.1",
    ]  # fmt: skip
    weights = {layer["name"]: layer for layer in bundle.report["parts"]["model"]["layers"]}
    again = {layer["name"]: layer for layer in bundle.report["parts"]["model_with_past"]["layers"]}
    assert weights.keys() == again.keys()
    assert bundle.report["shared"]["model"]


def test_a_form_that_was_not_recorded_is_told() -> None:
    bundle = awqc.compile(Branches(), run=in_forms, **CHEAP)
    assert list(bundle.parts) == ["model", "model_with_other"]
    recorded = recorded_run.record_run(Branches(), in_forms, parse_options())
    folders = {name: part.folder for name, part in bundle.parts.items()}
    with (
        recorded_run.parts_instead(recorded.modules, recorded.parts, folders),
        pytest.raises(CaptureError, match="is called with x, factor, other, as it was not"),
    ):
        recorded.model(X, factor=torch.ones(2, 32), other=X)


def in_forms(model: nn.Module) -> list[Tensor]:
    both = torch.cat([X, X])
    return [model(X), model(both), model(X, other=X), model(both, other=both)]


def test_a_whole_that_lost_too_much_is_not_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = recorded_run._compiled

    def damaged(forms: Any, own: Any, folders: Any, choices: Any) -> Any:
        method = whole(forms, own, folders, choices)
        return lambda *args, **kwargs: -method(*args, **kwargs)

    monkeypatch.setattr(recorded_run, "_compiled", damaged)
    with pytest.raises(VerificationError, match="the whole, run with its parts compiled: the loss"):
        awqc.compile(Texty(), run=twice(torch.randn(2, 32)), output_dir=tmp_path / "out", **CHEAP)
    assert not (tmp_path / "out").exists()


def test_results_of_all_kinds_are_found() -> None:
    from PIL import Image

    from awqc.whole.results import Results, compare_results

    def some(value: int) -> Results:
        image = Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8))
        return Results.of({"image": [image], "array": np.ones(3) * value, "said": f"a {value}"})

    found = some(200)
    assert found.images == {"image.0"}
    assert list(found.texts) == ["said"]
    numbers = Results.of([{"label": "a", "score": 0.5}, [1, 2, 3]]).tensors
    assert {path: value.shape for path, value in numbers.items()} == {"0.score": (), "1": (3,)}
    gap = compare_results(some(190), found)
    assert gap["outputs"]["image.0"]["psnr_db"] == pytest.approx(-20 * np.log10(10 / 255))
    assert (gap["same"], gap["word_error_rate"]) == (0, 0.5)
    assert compare_results(found, found)["outputs"]["image.0"]["psnr_db"] is None


@pytest.mark.slow
def test_a_pipeline_of_transformers_is_compiled_by_what_it_is_asked() -> None:
    from transformers import BertConfig, BertForSequenceClassification, pipeline

    from benchmarks.folder_models import VOCABULARY, word_tokenizer

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    asked = pipeline("text-classification", model=model, tokenizer=word_tokenizer())
    texts = ["t1 t2", "t5 t6 t7 t9", "t9", "t3 t4 t5", "t8 t8 t8 t1 t2"]
    bundle = awqc.compile(asked, run=lambda pipe: [pipe(text) for text in texts], **CHEAP)
    assert bundle.report["calls"] == {"model": 5}
    shapes = {spec.name: spec.shape for spec in bundle.bundle.parts["model"].inputs}
    assert shapes["input_ids"] == ("batch", "input_ids_axis_1")
    assert bundle.report["run"]["texts"] == 5
