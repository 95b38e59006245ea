"""A model of two graphs: an encoder, and a decoder that reads what it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.bundle.parts import Bundle, Wire
from awqc.capture.module import capture_module
from awqc.errors import UsageError, VerificationError
from awqc.program import Program
from awqc.whole import compiling
from awqc.whole.compiling import CompiledBundle, compile_bundle

WORDS, WIDTH = 1024, 32
CHEAP: dict[str, Any] = {"effort": "fast", "provider": "cpu", "formats": ("onnx", "pt2")}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.table(tokens)
        return {"hidden": x + self.down(torch.relu(self.up(self.norm(x))))}


class Decoder(nn.Module):
    """Reads the encoder's states by attention; its head is the encoder's table."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, prompt: Tensor, states: Tensor) -> dict[str, Tensor]:
        x = self.table(prompt)
        seen = nn.functional.scaled_dot_product_attention(self.q(x), self.k(states), self.v(states))
        return {"logits": nn.functional.linear(x + self.out(seen), self.table.weight)}


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = Encoder()
        self.decoder = Decoder(self.encoder.table)

    def forward(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        logits: Tensor = self.decoder(prompt, self.encoder(tokens)["hidden"])["logits"]
        return logits


WIRING = (Wire("encoder.hidden", "decoder.states"),)


def parts(model: Whole) -> dict[str, Program]:
    tokens, prompt = torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)
    states = torch.randn(2, 5, WIDTH)
    return {
        "encoder": capture_module(model.encoder, (tokens,), dynamic={"tokens": [1]}),
        "decoder": capture_module(
            model.decoder, (prompt, states), dynamic={"prompt": [1], "states": [1]}
        ),
    }


def batch(seed: int, rows: int = 4, tokens: int = 7, prompt: int = 3) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return {
        "encoder.tokens": torch.randint(WORDS, (rows, tokens), generator=drawn),
        "decoder.prompt": torch.randint(WORDS, (rows, prompt), generator=drawn),
    }


@pytest.fixture(scope="module")
def model() -> Whole:
    return Whole().eval()


@pytest.fixture(scope="module")
def bundle(model: Whole) -> Bundle:
    return Bundle(parts(model), WIRING)


@pytest.fixture(scope="module")
def compiled(bundle: Bundle) -> CompiledBundle:
    return compile_bundle(bundle, [batch(seed) for seed in range(6)], bits=8, **CHEAP)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 5, 3), (3, 11, 13)])
def test_the_parts_in_their_wiring_are_the_model(
    model: Whole, bundle: Bundle, sizes: tuple[int, int, int]
) -> None:
    given = batch(1, *sizes)
    with torch.no_grad():
        wanted = model(given["encoder.tokens"], given["decoder.prompt"])
    torch.testing.assert_close(bundle.run(given)["decoder.logits"], wanted)
    assert bundle.inputs == ("encoder.tokens", "decoder.prompt")
    assert bundle.outputs == ("encoder.hidden", "decoder.logits")


def test_a_part_is_calibrated_on_what_really_reaches_it(model: Whole, bundle: Bundle) -> None:
    given = batch(2)
    read, made = bundle.trace(given)
    assert torch.equal(read["decoder"]["states"], made["encoder.hidden"])
    assert torch.equal(read["encoder"]["tokens"], given["encoder.tokens"])


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 5, 3), (3, 11, 13)])
def test_the_compiled_parts_run_as_the_model_in_onnxruntime(
    model: Whole, compiled: CompiledBundle, sizes: tuple[int, int, int]
) -> None:
    given = batch(9, *sizes)
    with torch.no_grad():
        wanted = model(given["encoder.tokens"], given["decoder.prompt"])
    got = compiled.run(given)["decoder.logits"]
    assert float((got - wanted).norm() / wanted.norm()) < 0.03  # 8-bit noise
    assert compiled.report["verify"]["decoder.logits"]["rel"] < 0.03


def test_a_pattern_must_fit_a_weight_of_some_part(bundle: Bundle) -> None:
    batches = [batch(seed) for seed in range(2)]
    made = compile_bundle(bundle, batches, exclude=["^encoder.up", "out"], **CHEAP)
    for name, left in {"encoder": ["up.weight"], "decoder": ["out.weight"]}.items():
        assert [each["name"] for each in made.parts[name].report["skipped"]] == left
    with pytest.raises(UsageError, match=r"'encoder.out' matches no weight of the bundle"):
        compile_bundle(bundle, batches, exclude=["encoder.out"], **CHEAP)


def test_a_table_that_two_parts_hold_is_one(compiled: CompiledBundle) -> None:
    shared = compiled.report["shared"]
    assert shared["encoder"]["table.weight"] == "decoder.table.weight"
    assert shared["decoder"]["table.weight"] == "encoder.table.weight"
    values = [
        part.graph_module.state_dict()["table.weight.packed"] for part in compiled.parts.values()
    ]
    assert torch.equal(*values)


def test_no_scale_is_folded_into_a_weight_of_two_parts(bundle: Bundle) -> None:
    from awqc.compiler import compile_graph

    shared = bundle.shared()["decoder"]
    assert set(shared) == {"table.weight"}
    free = bundle.parts["decoder"].clone()
    sites = compile_graph(free, **CHEAP).report["sites"]
    assert all("table.weight" not in site.get("edits", ()) for site in sites)


def test_it_is_saved_as_a_folder_a_part(compiled: CompiledBundle, tmp_path: Path) -> None:
    folder = compiled.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} >= {"encoder", "decoder", "bundle.json"}
    assert (folder / "encoder" / "model.onnx").is_file()
    described = json.loads((folder / "bundle.json").read_text())
    assert described["wiring"] == [{"source": "encoder.hidden", "target": "decoder.states"}]


def test_one_program_is_a_bundle_of_one_part(bundle: Bundle) -> None:
    whole = Bundle.of(bundle.parts["encoder"])
    assert len(whole.parts) == 1
    assert whole.wiring == ()
    assert whole.shared() == {next(iter(whole.parts)): {}}


REFUSED = {
    "unknown output": (Wire("encoder.nothing", "decoder.states"), "has the output encoder.nothing"),
    "unknown input": (Wire("encoder.hidden", "decoder.nothing"), "has the input decoder.nothing"),
    "backward": (Wire("decoder.logits", "encoder.tokens"), "runs backward"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wire_that_cannot_be_is_refused(case: str, bundle: Bundle) -> None:
    wire, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        Bundle(bundle.parts, (wire,))


def test_what_else_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="two wires bring"):
        Bundle(bundle.parts, WIRING * 2)
    with pytest.raises(UsageError, match="no part"):
        Bundle({})
    with pytest.raises(UsageError, match="has a dot"):
        Bundle({"a.b": bundle.parts["encoder"]})
    with pytest.raises(UsageError, match=r"has no decoder\.prompt"):
        bundle.run({"encoder.tokens": torch.zeros(1, 2, dtype=torch.long)})
    with pytest.raises(UsageError, match="give two at least"):
        compile_bundle(bundle, [batch(0)], **CHEAP)


def test_the_whole_is_held_to_the_limit(bundle: Bundle) -> None:
    with pytest.raises(VerificationError):
        compile_bundle(bundle, [batch(seed) for seed in range(4)], bits=2, max_loss=1e-4, **CHEAP)


def test_a_part_with_long_rows_sees_fewer_batches(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "ENOUGH", 400)
    monkeypatch.setattr(compiling, "JUDGED", 100)
    batches = [batch(seed, tokens=30, prompt=2) for seed in range(20)]  # 120 rows, and 8
    made = compile_bundle(bundle, batches, bits=8, **{**CHEAP, "formats": ("pt2",)})
    found = {name: part.report["calibration"] for name, part in made.parts.items()}
    counts = {name: (each["batches"], each["held_out_batches"]) for name, each in found.items()}
    assert counts == {"encoder": (4, 2), "decoder": (16, 4)}
    assert made.held_out == 4
