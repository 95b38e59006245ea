"""Every runtime: found by its file, and the same model behind the same names."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from awqc.errors import AwqcError, UsageError, VerificationError
from awqc.huggingface.tokens import token_batch
from awqc.program import Program
from awqc.runtimes import base, onnxruntime, torch_int4
from awqc.runtimes.base import (
    LoadedModel,
    Runtime,
    check_runtimes,
    find_form,
    find_runtime,
    runtime_names,
    telling_line,
)
from awqc.verify.comparison import fed, forms_in
from tests.huggingface.test_language_models import compile_folder, random_ids, run_steps
from tests.tiny import relative
from tests.tiny_language_models import save_decoder

TYPED: list[Runtime] = [onnxruntime, torch_int4]
"""For the type checker: a module of this kind is a `Runtime`."""
EXACT = 1e-5
"""Relative error by which sums in another order may move one layer in float32."""
DEFAULT = 0.05
"""By which int8 activations or bfloat16 may; below the error of 4 bits, which is some 0.1."""
Decoder = tuple[Program, Path]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """A quantized decoder and the folder with its exported forms."""
    work = tmp_path_factory.mktemp("decoder")
    save_decoder("llama", work / "source", num_hidden_layers=1, intermediate_size=64)
    forms = ("onnx", "ort", "pt2")
    program, compiled = compile_folder(work / "source", formats=forms, effort="fast")
    return program, compiled.save(work / "out")


@pytest.fixture(params=runtime_names())
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@cache
def opened(runtime: str, folder: Path, *, exact: bool) -> tuple[LoadedModel, ...]:
    """The model in each form that ``runtime`` opens."""
    files = forms_in(folder, runtime)
    assert files
    return tuple(find_runtime(runtime).open_model(file, exact=exact) for file in files.values())


def test_names_are_those_of_the_program(runtime: str, decoder: Decoder) -> None:
    program, folder = decoder
    for model in opened(runtime, folder, exact=False):
        assert [str(spec) for spec in model.inputs] == [str(spec) for spec in program.inputs]
        assert model.outputs == program.outputs
        assert model.states == program.states
        assert model.provider == "cpu"


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (5, 13)], ids=str)
def test_outputs_are_those_of_the_program(
    runtime: str, shape: tuple[int, int], decoder: Decoder
) -> None:
    program, folder = decoder
    batch = token_batch(program, random_ids(*shape))
    wanted = program.run(batch)
    for exact, tolerance in ((True, EXACT), (False, DEFAULT)):
        for model in opened(runtime, folder, exact=exact):
            found = model.run(fed(model, batch))
            assert len(found) == len(wanted)
            for now, reference in zip(found, wanted, strict=True):
                assert now.shape == reference.shape
                assert relative(now, reference) < tolerance
            (last,) = model.run(fed(model, batch), only=[model.outputs[-1]])
            assert torch.equal(last, found[-1])


def test_states_are_carried_from_run_to_run(runtime: str, decoder: Decoder) -> None:
    program, folder = decoder
    ids = random_ids(2, 11)
    whole: Tensor = program.run(token_batch(program, ids))[0]
    for model in opened(runtime, folder, exact=True):
        assert relative(run_steps(program, model, ids, [6, 1, 1, 3]), whole) < EXACT


def test_kernels_that_read_codes_are_counted(runtime: str, decoder: Decoder) -> None:
    program, folder = decoder
    for model in opened(runtime, folder, exact=False):
        model.run(fed(model, token_batch(program, random_ids(1, 3))))
        found = model.kernels()
        assert found.low_bit >= 3
        assert found.precision
        assert found.dequantized == ()


def test_what_does_not_fit_is_told(runtime: str, decoder: Decoder, tmp_path: Path) -> None:
    program, folder = decoder
    batch = token_batch(program, random_ids(1, 3))
    missing = {name: value for name, value in batch.items() if name != "input_ids"}
    wrong_type = batch | {"input_ids": torch.rand(1, 3)}
    for model in opened(runtime, folder, exact=True):
        for wrong in (missing, wrong_type):
            with pytest.raises(VerificationError, match=r"cannot run the model: .+"):
                model.run(wrong)
    form = next(iter(find_runtime(runtime).FORMS.values()))
    damaged = tmp_path / Path(form).name
    damaged.write_bytes(b"nonsense")
    with pytest.raises(AwqcError, match=damaged.name):
        find_runtime(runtime).open_model(damaged, exact=True)


def test_a_file_of_the_folder_is_a_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"onnxruntime", "torch-int4"} < set(runtime_names())
    assert {"base", "generate", "loading", "session-file"}.isdisjoint(runtime_names())
    opens = "import nothing_here\n\n\ndef open_model(file): ...\n"
    (tmp_path / "my_runtime.py").write_text(opens)
    (tmp_path / "tools.py").write_text("def other(): ...\n")
    monkeypatch.setattr(base, "__file__", str(tmp_path / "base.py"))
    assert runtime_names() == ("my-runtime",)


def test_nothing_is_imported_to_find_runtimes() -> None:
    code = (
        "import sys\nfrom awqc.runtimes.base import runtime_names\nassert runtime_names()\n"
        "print(*{'torch', 'onnx', 'onnxruntime', 'openvino', 'numpy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == ""


def test_runtimes_that_cannot_verify_are_refused() -> None:
    assert check_runtimes(("onnxruntime",), ("pt2",)) == ("onnxruntime",)
    asked = ("torch-int4", "onnxruntime", "torch-int4")
    assert check_runtimes(asked, ("onnx", "pt2")) == ("torch-int4", "onnxruntime")
    with pytest.raises(UsageError, match="runtime 'tvm' is unknown; choose from onnxruntime, "):
        check_runtimes(("onnxruntime", "tvm"), ("onnx",))
    with pytest.raises(UsageError, match="torch-int4 has nothing to verify: it runs pt2, the "):
        check_runtimes(("onnxruntime", "torch-int4"), ("onnx",))
    with pytest.raises(UsageError, match="no runtime to verify with is given"):
        check_runtimes((), ("onnx",))


def test_the_form_that_a_runtime_opens(tmp_path: Path) -> None:
    forms = {"onnx": "model.onnx", "ort": "ort/model.onnx"}
    with pytest.raises(UsageError, match=r"there is no model\.onnx or ort/model\.onnx, which it "):
        find_form(tmp_path, forms, "it")
    (tmp_path / "ort").mkdir()
    (tmp_path / "ort" / "model.onnx").touch()
    assert find_form(tmp_path, forms, "it") == tmp_path / "ort" / "model.onnx"
    (tmp_path / "model.onnx").touch()
    assert find_form(tmp_path, forms, "it") == tmp_path / "model.onnx"
    assert find_form(tmp_path / "model.onnx", forms, "it") == tmp_path / "model.onnx"


def test_the_line_of_a_message_that_tells() -> None:
    assert telling_line("") == "no reason given"
    assert telling_line("only where:\n") == "only where:"
    assert telling_line("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF\nmore") == (
        "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF"
    )
