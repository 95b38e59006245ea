"""A decoder and what its first call makes, as one ONNX model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.export.merged import merge_decoder
from awqc.export.onnx import export_onnx
from awqc.program import Program

WIDTH = 16
PAST, SOURCE = "past_key_values.0.decoder.key", "past_key_values.0.encoder.key"


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Linear(WIDTH, WIDTH)

    def forward(self, encoder_hidden_states: Tensor) -> dict[str, Tensor]:
        x: Tensor = self.look(encoder_hidden_states)
        return {"key": x.view(*x.shape[:2], 2, 8).transpose(1, 2)}


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, WIDTH), nn.Linear(WIDTH, 9)

    def forward(self, input_ids: Tensor, past: Tensor, source: Tensor) -> dict[str, Tensor]:
        x = self.table(input_ids)
        keys = torch.cat([past, x.view(*x.shape[:2], 2, 8).transpose(1, 2)], dim=2)
        seen = keys.cumsum(dim=2)[:, :, -input_ids.shape[1] :] + source.mean(dim=2, keepdim=True)
        return {"logits": self.head(seen.transpose(1, 2).flatten(2)), "present": keys}


def renamed(program: Program, inputs: list[str], outputs: list[str]) -> Program:
    from dataclasses import replace

    from awqc.capture.renamed import rename_inputs

    program = rename_inputs(program, inputs)
    program.interface = replace(program.interface, outputs=tuple(outputs))
    return program


@pytest.fixture(scope="module")
def modules() -> tuple[Cross, Decoder]:
    torch.manual_seed(0)
    return Cross().eval(), Decoder().eval()


@pytest.fixture(
    scope="module",
    params=[(False, True), (True, True), (False, False)],
    ids=["inside", "beside", "fixed"],
)
def merged(
    request: pytest.FixtureRequest,
    modules: tuple[Cross, Decoder],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """With weights in the model or in a file beside it; an encoder that makes any states or 7."""
    beside, free = request.param
    folder = tmp_path_factory.mktemp("merged")
    states, ids = torch.randn(2, 7, WIDTH), torch.zeros(2, 3, dtype=torch.long)
    past, source = torch.randn(2, 2, 4, 8), torch.randn(2, 2, 7, 8)
    cross = renamed(
        capture_module(
            modules[0], (states,), dynamic={"encoder_hidden_states": [1]} if free else None
        ),
        ["encoder_hidden_states"],
        ["present.0.encoder.key"],
    )
    axes = {"input_ids": [1], "past": [2], **({"source": [2]} if free else {})}
    decoder = renamed(
        capture_module(modules[1], (ids, past, source), dynamic=axes),
        ["input_ids", PAST, SOURCE],
        ["logits", "present.0.decoder.key"],
    )
    parts = {
        name: export_onnx(program, folder / f"{name}.onnx", external_data=beside).path
        for name, program in (("cross", cross), ("decoder", decoder))
    }
    (folder / "merged").mkdir()
    path = merge_decoder(parts["cross"], parts["decoder"], folder / "merged" / "model.onnx")
    for part in parts.values():
        part.unlink()
        part.with_name(f"{part.name}.data").unlink(missing_ok=True)
    return path


def run(path: Path, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(path)
    outputs = [each.name for each in session.get_outputs()]
    return dict(zip(outputs, session.run(None, feeds), strict=True))


def test_it_is_valid_and_has_the_names_that_runners_know(merged: Path) -> None:
    onnx.checker.check_model(str(merged))
    graph = onnx.load(merged, load_external_data=False).graph
    names = [each.name for each in graph.input]
    assert set(names) == {
        "input_ids", PAST, SOURCE, "encoder_hidden_states", "use_cache_branch",
    }  # fmt: skip
    assert names[-2:] == [PAST, SOURCE]  # Optimum takes them by their order
    assert [each.name for each in graph.output] == [
        "logits", "present.0.decoder.key", "present.0.encoder.key",
    ]  # fmt: skip


@pytest.mark.parametrize("garbage", [0, 1, 6])
def test_both_branches_are_the_model(
    merged: Path, modules: tuple[Cross, Decoder], garbage: int
) -> None:
    """A first call of three tokens and a later one of two; its past before may be anything."""
    cross, decoder = modules
    states, ids = torch.randn(1, 7, WIDTH), torch.randint(9, (1, 5))
    with torch.no_grad():
        source = cross(states)["key"]
        wanted = decoder(ids, torch.zeros(1, 2, 0, 8), source)
    past = np.full((1, 2, garbage, 8), 9, np.float32)
    first = run(
        merged,
        **{"input_ids": ids[:, :3].numpy(), PAST: past, SOURCE: past},
        encoder_hidden_states=states.numpy(),
        use_cache_branch=np.array([False]),
    )
    assert np.allclose(first["logits"], wanted["logits"][:, :3], atol=1e-5)
    assert np.allclose(first["present.0.encoder.key"], source, atol=1e-6)
    later = run(
        merged,
        **{
            "input_ids": ids[:, 3:].numpy(),
            PAST: first["present.0.decoder.key"],
            SOURCE: first["present.0.encoder.key"],
        },
        encoder_hidden_states=states.numpy(),
        use_cache_branch=np.array([True]),
    )
    assert np.allclose(later["logits"], wanted["logits"][:, 3:], atol=1e-5)
    assert np.allclose(later["present.0.decoder.key"], wanted["present"], atol=1e-6)
    assert np.array_equal(later["present.0.encoder.key"], first["present.0.encoder.key"])
