"""compile_graph(), end to end on small models, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import awqc.export.formats as formats
from awqc.artifacts.publish import staging
from awqc.capture.module import capture_module
from awqc.compiler import Compiled, compile_graph
from awqc.errors import CalibrationError, ExportError, UsageError, VerificationError
from awqc.executor import segments
from awqc.runtimes.onnxruntime import EXACT as EXACT_LEVEL
from awqc.runtimes.onnxruntime import Session, why_no_cuda
from tests.executor.test_segments import Decoder
from tests.tiny import MODELS, inputs, model, relative

KEYS = {
    "schema", "sites", "layers", "skipped", "size", "verify", "timing_s", "recipe", "environment",
}  # fmt: skip
FILES = {"model.onnx", "model.pt2", "report.json", "recipe.json", "scales.safetensors"}


def batches(name: str, count: int = 6) -> list[tuple[torch.Tensor]]:
    return [(inputs(name, seed=seed),) for seed in range(2, 2 + count)]


def compiled(name: str, **options: Any) -> Compiled:
    return compile_graph(model(name), (inputs(name),), batches(name), provider="cpu", **options)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_compiles_and_is_verified(name: str, tmp_path: Path) -> None:
    result = compiled(name, output_dir=tmp_path / "out", bits=8)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FILES
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report) >= KEYS
    assert report == result.report
    assert report["verify"]["comparisons"][0]["exact"]["rel"] < 1e-5
    assert report["verify"]["comparisons"][0]["kernels"]["unfused"] == []
    assert report["size"]["ratio"] > 1
    for site in report["sites"]:
        assert site["status"] in ("folded", "runtime", "refused")
        assert site["loss"] <= site["loss_nearest"]
        assert site["reason"] or site["status"] == "folded"
    for layer in report["layers"]:
        assert layer["bits"] == 8
        assert 0 <= layer["weight_error"] < 0.01
        assert layer["output_sqnr_db"] > 30
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"))
    x = inputs(name, batch=7, seed=99)
    with torch.no_grad():
        wanted = model(name)(x)
        found = result.graph_module(x)
        saved = torch.export.load(tmp_path / "out" / "model.pt2").module()(x)
    assert relative(found, wanted) < 0.05
    torch.testing.assert_close(saved, found, rtol=1e-5, atol=1e-6)
    session = Session(tmp_path / "out" / "model.onnx", "cpu", EXACT_LEVEL)
    (exported,) = session.run({report["inputs"][0].partition("=")[0]: x})
    assert relative(exported, found) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["mlp", "gated"])
def test_half_models(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    module = model(name).to(dtype)
    data = [(x.to(dtype),) for (x,) in batches(name)]
    result = compile_graph(
        module, (inputs(name).to(dtype),), data, bits=8, output_dir=tmp_path / "out",
        provider="cpu",
    )  # fmt: skip
    x = data[0][0]
    with torch.no_grad():
        found, wanted = result.graph_module(x), module(x)
    assert found.dtype == dtype
    # 8-bit weights, and a few roundings in half: 4e-3 each in bfloat16.
    assert relative(found, wanted) < 0.03
    assert result.report["verify"]["comparisons"][0]["exact"]["rel"] < 0.02


def test_a_recipe_gives_the_same_model_without_data(tmp_path: Path) -> None:
    for name in ("attention", "postnorm"):
        first = compiled(name, bits=3, group_size=16, output_dir=tmp_path / name, formats=("pt2",))
        again = compile_graph(
            model(name), (inputs(name),), recipe=tmp_path / name, provider="cpu",
            formats=("pt2",), output_dir=tmp_path / f"{name}-again",
        )  # fmt: skip
        old, new = (dict(c.graph_module.named_buffers()) for c in (first, again))
        assert set(old) == set(new)
        assert all(torch.equal(old[key], new[key]) for key in old)
        assert str(first.graph_module.graph) == str(again.graph_module.graph)
        sites = [[(s["name"], s["status"]) for s in c.report["sites"]] for c in (first, again)]
        assert sites[0] == sites[1]


def test_the_seed_decides_everything() -> None:
    first, second = (
        compile_graph(model("mlp"), (inputs("mlp"),), seed=3, formats=("pt2",), provider="cpu")
        for _ in range(2)
    )
    assert first.report["calibration"]["synthetic"] is True
    for a, b in zip(first.graph_module.buffers(), second.graph_module.buffers(), strict=True):
        assert torch.equal(a, b)


def old_output(folder: Path) -> Path:
    with staging(folder) as made:
        (made / "report.json").write_text("old")
    return folder


def assert_untouched(folder: Path) -> None:
    assert (folder / "report.json").read_text() == "old"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_too_large_a_loss_publishes_nothing(tmp_path: Path) -> None:
    target = old_output(tmp_path / "out")
    with pytest.raises(VerificationError, match="max_loss allows 1e-09"):
        compiled("mlp", bits=2, max_loss=1e-9, output_dir=target)
    assert_untouched(target)


@pytest.mark.parametrize(
    ("error", "seen"), [(KeyboardInterrupt, KeyboardInterrupt), (OSError, ExportError)]
)
def test_an_interrupted_export_publishes_nothing(
    error: type[BaseException],
    seen: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = old_output(tmp_path / "out")

    def interrupted(*_: object) -> Path:
        raise error

    exporter = replace(formats.FORMATS["onnx"], write=interrupted)
    monkeypatch.setitem(formats.FORMATS, "onnx", exporter)
    with pytest.raises(seen):
        compiled("mlp", output_dir=target)
    assert_untouched(target)


def test_a_wrong_exporter_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = old_output(tmp_path / "out")
    write = formats.FORMATS["onnx"]

    def wrong(program: Any, *rest: Any) -> Path:
        broken = program.clone()
        broken.set_weight("0.bias", broken.weight("0.bias") + 0.1)
        return write(broken, *rest)

    monkeypatch.setitem(formats.FORMATS, "onnx", replace(write, write=wrong))
    with pytest.raises(VerificationError, match="the onnx form in onnxruntime differs"):
        compiled("mlp", output_dir=target)
    assert_untouched(target)


def test_nan_in_an_activation_names_the_layer() -> None:
    class Root(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.second(torch.sqrt(self.first(x)))
            return out

    x = torch.randn(4, 8)
    with pytest.raises(CalibrationError, match="second: its input holds nan"):
        compile_graph(Root(), (x,), [(x,)] * 5, provider="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits=5"),
        ({"group_size": 0}, "group_size=0: give 1 or more, or auto, or -1"),
        ({"exclude": "("}, "regular expression"),
        ({"formats": "onxx"}, "formats='onxx': choose one of onnx, ort"),
        ({"formats": ()}, "formats is empty"),
        ({"provider": "metal"}, "provider='metal': choose one of auto, cuda, cpu"),
        ({"pipeline": "nonsense"}, "no pass is called"),
        ({"recipe": "missing.json"}, "cannot be read as a recipe"),
        ({"bist": 4}, "no option 'bist'"),
        ({"runtime_scales": "sometimes"}, "auto, never, always"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compile_graph(model("mlp"), (inputs("mlp"),), **options)


@pytest.mark.skipif(why_no_cuda() is None, reason="CUDA works here")
def test_cuda_where_there_is_none_is_an_error() -> None:
    with pytest.raises(UsageError, match="provider='cuda': "):
        compile_graph(model("mlp"), (inputs("mlp"),), provider="cuda")


def test_inputs_and_folder_are_checked_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"example_inputs is missing .* inputs=\['input="):
        compile_graph(torch.nn.LayerNorm(8))
    (tmp_path / "mine").write_text("")
    with pytest.raises(UsageError, match="did not write"):
        compile_graph(model("mlp"), (inputs("mlp"),), output_dir=tmp_path)


def test_saving_later_writes_the_same_files(tmp_path: Path) -> None:
    result = compiled("mlp", formats="onnx", group_size=16)
    folder = result.save(tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert names >= FILES - {"model.pt2"}
    assert "model.pt2" not in names


def test_calibration_data_may_be_whole_arrays() -> None:
    x = torch.cat([batch for (batch,) in batches("mlp")])
    program = capture_module(model("mlp"), (inputs("mlp"),))
    result = compile_graph(program, calib={program.inputs[0].name: x.numpy()}, effort="fast")
    assert result.report["calibration"]["source"] == "the calibration data"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_in_segments_compiles_and_is_verified(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All the way, with tuned scales; the layers are those of the model in one piece."""
    torch.manual_seed(0)
    model, x = Decoder().eval().to(dtype), torch.randn(2, 5, 32).to(dtype)
    batches = [(torch.randn(2, 5, 32).to(dtype),) for _ in range(9)]
    found = []
    for smallest in (2**23, 1):
        monkeypatch.setattr(segments, "SMALLEST", smallest)
        found.append(compile_graph(model, (x,), batches, formats=("onnx",), group_size=16).report)
    whole, cut_up = found
    assert len(cut_up["layers"]) > 8
    for one, other in zip(whole["layers"], cut_up["layers"], strict=True):
        assert (one["name"], one["bytes"]) == (other["name"], other["bytes"])
        assert other["accumulated_sqnr_db"] == pytest.approx(one["accumulated_sqnr_db"], abs=0.1)
    assert whole["sites"] == cut_up["sites"]
    assert cut_up["recipe"] == whole["recipe"]
