"""Models with a top-k inside: what is behind it is compared with the same rows, in one order."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import awqc
from awqc.capture.module import capture_module
from awqc.errors import InvariantError, VerificationError
from awqc.executor.run import Run
from awqc.export.formats import FORMATS
from awqc.graph.choices import EQUAL, chosen_again, recorded_choices
from awqc.passes.canonicalize import Canonicalize
from awqc.passes.invariants import check_invariants
from awqc.program import Program
from awqc.verify.gaps import Gaps
from awqc.verify.limits import check_limits
from awqc.verify.published import check_published
from awqc.verify.reference import take_reference
from awqc.verify.trials import take_trials
from awqc.verify.verification import Verification, verify

ROWS, WIDTH, TAKEN = 24, 32, 6


class Detector(nn.Module):
    """Rows with the best scores are taken, attend to each other, and become boxes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.mix = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.score, self.box = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.mix(self.norm(x)))
        best = torch.topk(self.score(rows).max(-1).values, TAKEN, dim=1).indices
        queries = rows.gather(1, best[..., None].expand(-1, -1, WIDTH))
        seen = torch.softmax(queries @ queries.transpose(1, 2) / WIDTH, -1) @ queries
        boxes: Tensor = self.box(seen + queries)
        return boxes


def tied(count: int, seed: int) -> Tensor:
    """Rows of which each comes again, with a difference that only rounding makes a score of."""
    rows = torch.randn(count, ROWS // 4, WIDTH, generator=torch.Generator().manual_seed(seed))
    others = [rows * (1 + place * 2e-7) for place in range(4)]
    return torch.cat(others, 1)


@pytest.fixture
def program() -> Program:
    made = capture_module(Detector(), (tied(2, 0),), dynamic={"x": {0: "batch"}})
    Canonicalize().apply(made)
    made.tidy()
    return made


def changed(program: Program, name: str, factor: float) -> Program:
    other = program.clone()
    other.set_weight(name, other.weight(name) * factor)
    return other


def test_a_choice_is_made_again_where_it_is_as_good(program: Program) -> None:
    batch = {"x": torch.randn(2, ROWS, WIDTH)}
    with recorded_choices() as best:
        (boxes,) = program.run(batch)
    (indices,) = best
    with chosen_again([indices.flip(1)], EQUAL) as told:
        (same,) = program.run(batch)
    assert torch.equal(same, boxes)  # the reverse is not as good
    assert torch.equal(told.made[0], indices)
    with chosen_again([indices.flip(1)], math.inf) as told:
        (turned,) = program.run(batch)
    assert torch.allclose(turned, boxes.flip(1), atol=1e-5)
    assert torch.equal(told.scores[0][0], told.scores[0][1].flip(1))


class Routed(nn.Module):
    """Looks at what a top-k gives as one row."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        values, indices = torch.topk(self.score(x), 2)
        return values.view(-1) * indices.view(-1)


def test_what_is_chosen_lies_in_memory_as_torch_has_it() -> None:
    x = torch.randn(5, WIDTH)
    model = Routed()
    program = capture_module(model, (x,))
    with recorded_choices() as made:
        torch.testing.assert_close(program.run({"x": x})[0], model(x))
    with chosen_again([made[0].t().contiguous().t()], EQUAL):
        torch.testing.assert_close(program.run({"x": x})[0], model(x))


def test_an_archive_says_what_it_chooses(program: Program, tmp_path: Path) -> None:
    """Of equal scores torch does not take the first, as awqc does."""
    assert torch.topk(torch.zeros(ROWS), TAKEN).indices.tolist() != [*range(TAKEN)]
    equal = changed(program, "score.weight", 0)
    FORMATS["pt2"](equal, tmp_path, {})
    batch, none = {"x": torch.randn(1, ROWS, WIDTH)}, Verification(None, (), 0, None, [])
    check_published(equal, equal, [batch], tmp_path, none)
    wrong = changed(equal, "box.weight", 1.1)
    with pytest.raises(VerificationError, match="opened by itself in another process, differs"):
        check_published(wrong, wrong, [batch], tmp_path, none)


def test_equal_scores_are_taken_in_their_order(program: Program) -> None:
    with recorded_choices() as made:
        program.run({"x": torch.ones(1, ROWS, WIDTH)})
    assert made[0].tolist() == [[*range(TAKEN)]]


def test_a_detector_whose_scores_tie_is_compiled(tmp_path: Path) -> None:
    data = [(tied(2, seed),) for seed in range(6)]
    result = awqc.compile(
        Detector(), (tied(2, 0),), data, output_dir=tmp_path / "out",
        formats=("onnx", "ort", "pt2"), bits=8, group_size=16, provider="cpu",
    )  # fmt: skip
    outputs = result.report["verify"]["original"]["outputs"]
    assert outputs["output"]["rel"] < 0.05
    assert outputs["scores of top-k 1"]["rel"] < 0.05


@pytest.mark.parametrize("layer", ["score", "mix", "box"])
def test_a_fold_that_changes_the_function_is_found(program: Program, layer: str) -> None:
    run = Run().referring_to(program)
    check_invariants(program, Canonicalize(), run)
    rounded = changed(program, f"{layer}.weight", 1 + 1e-6)
    check_invariants(rounded, Canonicalize(), run)
    wrong = program.clone()
    weight = wrong.weight(f"{layer}.weight").clone()
    weight[0] = -weight[0]
    wrong.set_weight(f"{layer}.weight", weight)
    with pytest.raises(InvariantError, match="A fold changed the function"):
        check_invariants(wrong, Canonicalize(), run)


def test_nearly_equal_scores_may_change_places() -> None:
    """What is lost counts over what could be taken, not over the best alone."""
    scores = torch.tensor([[0.30, 0.3001, 0.1, 0.2, 0.0, 0.15]]).repeat(4, 1)
    best, taken = scores[:, [1, 0]], scores[:, [0, 1]]
    gaps = Gaps()
    gaps.add_chosen("scores", taken, best, scores)
    assert gaps.rel == pytest.approx(1e-4 / float(scores.std(correction=0)), rel=1e-3)
    gaps.add_chosen("scores", scores[:, [4, 2]], best, scores)
    assert gaps.rel > 1


def test_scores_that_quantization_spoils_are_a_loss(program: Program) -> None:
    reference = take_reference(program, [{"x": torch.randn(4, ROWS, WIDTH)}])
    spoiled = changed(program, "score.weight", -1)
    found = verify(spoiled, reference, None)
    assert found.original is not None
    assert found.original["outputs"]["scores of top-k 1"]["rel"] > 0.5
    with pytest.raises(VerificationError, match="in output scores of top-k 1"):
        check_limits(found, torch.float32, 0.5, "a detector")


@pytest.mark.parametrize("damage", ["", "score", "mix", "box", "TopK"])
def test_an_exported_form_that_chooses_otherwise_is_found(
    program: Program, tmp_path: Path, damage: str
) -> None:
    FORMATS["onnx"](program, tmp_path, {})
    model = onnx.load(tmp_path / "model.onnx")
    for node in model.graph.node:
        if node.op_type == damage:
            (largest,) = (each for each in node.attribute if each.name == "largest")
            largest.i = 0
    for tensor in model.graph.initializer:
        if tensor.name == f"{damage}.bias":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] += np.float32(0.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    reference = take_reference(program, [{"x": tied(3, seed)} for seed in range(2)])
    found = verify(program, reference, tmp_path, provider="cpu", trials=take_trials(program))
    if not damage:
        check_limits(found, torch.float32, 0.5, "a detector")
        return
    with pytest.raises(VerificationError, match="differs from the quantized model"):
        check_limits(found, torch.float32, 0.5, "a detector")
