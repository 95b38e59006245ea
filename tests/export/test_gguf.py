"""GGUF files, read by the package gguf and run by transformers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize
from torch import Tensor, nn

import awqc
from awqc.compiler import Compiled, compile_graph
from awqc.data.calibration import CalibrationData
from awqc.errors import UsageError, VerificationError
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.tokens import token_batch
from awqc.numerics.formats.found import named_format
from awqc.program import Program
from tests.gguf_files import gguf_tensors, write_template
from tests.huggingface.test_language_models import compile_loaded, random_ids
from tests.tiny_language_models import Opened, save_decoder

WIDE = {"hidden_size": 256, "intermediate_size": 512}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened.saved("llama", tmp_path_factory.mktemp("gguf") / "model", **WIDE)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened.saved(
        "llama", tmp_path_factory.mktemp("gguf") / "model", **WIDE, num_hidden_layers=1
    )


def compiled_after(
    model: Path | Program, template: Path | None, **options: Any
) -> tuple[Program, Compiled, dict[str, Any]]:
    """The program, what came of it, and the tensors of the GGUF file by name."""
    settings: dict[str, Any] = {"formats": ("gguf",), "effort": "fast", "group_size": "auto"}
    program = load_folder(model) if isinstance(model, Path) else model
    program, compiled = compile_loaded(program, **{**settings, "gguf": template, **options})
    reader = GGUFReader(compiled.folder / "model.gguf")
    return program, compiled, {tensor.name: tensor for tensor in reader.tensors}


def check_repeated(compiled: Compiled, folder: Path, template: Path) -> None:
    """A compile from the recipe of ``compiled`` gives the same file."""
    options: dict[str, Any] = {"formats": ("gguf",), "gguf": template, "group_size": "auto"}
    again = compile_graph(folder, recipe=compiled.folder, **options)
    before, after = (made.folder / "model.gguf" for made in (compiled, again))
    assert before.read_bytes() == after.read_bytes()


def values(tensor: Any) -> Tensor:
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()


def same_order(written: Tensor, original: Tensor, template: Tensor) -> Tensor:
    """``written`` in the order that rows of ``original`` have, given that of ``template``."""
    nearest = torch.cdist(original.double(), template.double()).argmin(1)
    return written[nearest]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_a_decoder_goes_where_its_rows_lie_in_the_file(kind: str, tmp_path: Path) -> None:
    """Of 256 columns Q4_K; queries and keys in pairs; the tied table in Q8_0; norms in float.

    Transformers runs the file, by tables of its own, within every compile that writes one.
    """
    model = save_decoder("llama", tmp_path / "model", **WIDE, tie_word_embeddings=True)
    tensors = write_template(model, "llama", tmp_path / "float.gguf", kind)
    program, compiled, found = compiled_after(tmp_path / "model", tmp_path / "float.gguf")
    assert set(found) == set(tensors)
    kinds = {name: tensor.tensor_type.name for name, tensor in found.items()}
    assert kinds["token_embd.weight"] == "Q8_0"
    assert {k for n, k in kinds.items() if n.startswith("blk") and "norm" not in n} == {"Q4_K"}
    assert {k for n, k in kinds.items() if "norm" in n} == {"F32"}
    quantized = {id(v): v for v in program.findings.quantized.values()}
    assert len(quantized) == sum(k in ("Q4_K", "Q8_0") for k in kinds.values())
    for name, (source, laid) in tensors.items():
        weight = program.findings.quantized.get(source)
        if weight is not None:
            own = same_order(values(found[name]), model.state_dict()[source], laid)
            torch.testing.assert_close(own, weight.dequantize().float(), rtol=0, atol=0)
    assert not any("not run as a whole" in note for note in compiled.report["notes"])
    fields = GGUFReader(compiled.folder / "model.gguf").fields
    assert fields["general.name"].contents() == "tiny"
    assert fields["tokenizer.ggml.tokens"].contents()[:2] == ["t0", "t1"]


@pytest.mark.parametrize(
    ("kind", "architecture", "changes"),
    [
        ("gemma3_text", "gemma3", {"head_dim": 32}),
        ("llama", "llama", {"attention_bias": True, "num_key_value_heads": 2}),
        ("mistral", "llama", {"head_dim": 32}),
    ],
    ids=["norms as 1 + w", "biases in pairs", "heads of another size"],
)
def test_other_layouts(
    kind: str, architecture: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Also default effort: rounding, tuning and folds that change norms."""
    model = save_decoder(kind, tmp_path / "model", **WIDE, **changes)
    for name, value in model.named_parameters():
        if "norm" in name or "bias" in name:  # each of its own, as trained ones are
            nn.init.normal_(value, std=0.2)
    model.save_pretrained(tmp_path / "model")
    write_template(model, architecture, tmp_path / "float.gguf")
    _, compiled, _ = compiled_after(tmp_path / "model", tmp_path / "float.gguf", effort="default")
    assert any(site["status"] == "folded" for site in compiled.report["sites"])
    left_out = any("not run as a whole" in note for note in compiled.report["notes"])
    assert left_out == (kind == "mistral")  # a name that transformers' own tables do not have


def test_weights_that_the_model_holds_transposed(tmp_path: Path) -> None:
    """GPT-2's are (in, out) in the model, and (out, in) in the graph and in the file."""
    model = save_decoder("gpt2", tmp_path / "model", n_embd=256, n_inner=512)
    write_template(model, "gpt2", tmp_path / "float.gguf")
    program, compiled, found = compiled_after(tmp_path / "model", tmp_path / "float.gguf")
    quantized = {n: t for n, t in found.items() if n.startswith("blk") and len(t.shape) == 2}
    assert {tensor.tensor_type.name for tensor in quantized.values()} == {"Q4_K"}
    weight = program.findings.quantized["transformer.h.0.mlp.c_fc.weight"]
    assert torch.equal(values(found["blk.0.ffn_up.weight"]), weight.dequantize().float())
    assert not any("not run as a whole" in note for note in compiled.report["notes"])


def test_tensors_are_found_by_value_where_no_table_names_them(tmp_path: Path) -> None:
    model = save_decoder("llama", tmp_path / "model", **WIDE)
    for name, value in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(value, mean=1, std=0.2)
    model.save_pretrained(tmp_path / "model")
    tensors = write_template(model, "llama", tmp_path / "float.gguf", shown="llamaish")
    program, compiled, found = compiled_after(tmp_path / "model", tmp_path / "float.gguf")
    for name, (source, laid) in tensors.items():
        weight = program.findings.quantized.get(source)
        if weight is not None:
            own = same_order(values(found[name]), model.state_dict()[source], laid)
            assert torch.equal(own, weight.dequantize().float()), name
    notes = [note for note in compiled.report["notes"] if "not run as a whole" in note]
    assert len(notes) == 1


def test_columns_that_256_does_not_divide_get_blocks_of_32_or_stay_float(tmp_path: Path) -> None:
    model = save_decoder("llama", tmp_path / "model", hidden_size=64, intermediate_size=264)
    write_template(model, "llama", tmp_path / "float.gguf")
    _, compiled, found = compiled_after(tmp_path / "model", tmp_path / "float.gguf")
    assert found["blk.0.attn_q.weight"].tensor_type.name == "Q5_0"
    assert found["blk.0.ffn_down.weight"].tensor_type.name == "F16"
    reasons = {each["name"]: each["reason"] for each in compiled.report["skipped"]}
    assert reasons["model.layers.0.mlp.down_proj.weight"] == "it is in float in the GGUF file"


def test_a_quantized_file_says_what_each_weight_is_to_be(llama: Opened, tmp_path: Path) -> None:
    """Rows are found though their values are rounded, and each tensor has the type it had."""
    wanted = {
        "token_embd.weight": "Q6_K", "output.weight": "Q6_K", "blk.0.attn_q.weight": "Q3_K",
        "blk.0.attn_k.weight": "Q2_K", "blk.0.attn_v.weight": "Q5_K",
        "blk.0.attn_output.weight": "Q4_1", "blk.0.ffn_gate.weight": "Q5_0",
        "blk.0.ffn_up.weight": "Q5_1", "blk.0.ffn_down.weight": "Q4_K",
        "blk.1.attn_q.weight": "Q8_0", "blk.1.attn_k.weight": "Q4_0",
    }  # fmt: skip
    types = {name: named_format(kind) for name, kind in wanted.items()}
    write_template(
        llama.model, "llama", tmp_path / "mixed.gguf",
        types={**types, "blk.1.attn_q.weight": "Q8_0", "blk.1.attn_k.weight": "Q4_0"},
    )  # fmt: skip
    _, compiled, found = compiled_after(llama.program, tmp_path / "mixed.gguf", effort="default")
    kinds = {name: tensor.tensor_type.name for name, tensor in found.items()}
    assert {name: kinds[name] for name in wanted} == wanted
    assert kinds["blk.1.ffn_up.weight"] == "F16"  # as it was there
    assert not (compiled.folder / "codes.safetensors").exists()  # the file itself has them
    check_repeated(compiled, llama.folder, tmp_path / "mixed.gguf")


def test_a_gguf_file_that_is_compiled_is_its_own_template(tmp_path: Path) -> None:
    """Its weights are float again when it is read, and get the type that is asked for."""
    model = save_decoder("llama", tmp_path / "model", **WIDE)
    tensors = write_template(model, "llama", tmp_path / "source.gguf", "Q8_0")
    program = load_folder(tmp_path, gguf_file="source.gguf")
    ids = random_ids(4, 8)
    data = CalibrationData((token_batch(program, ids[:2]),), (token_batch(program, ids[2:]),), "r")
    compiled = compile_graph(
        program, calib=data, formats=("gguf",), effort="fast", weight_format="Q5_K"
    )
    found = {t.name: t for t in GGUFReader(compiled.folder / "model.gguf").tensors}
    assert set(found) == set(tensors)
    assert found["blk.0.attn_q.weight"].tensor_type.name == "Q5_K"


def test_its_configuration_is_read_once_for_each_state_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "source.gguf"
    write_template(save_decoder("llama", tmp_path / "model", **WIDE), "llama", path)
    source = HFFolder.at(path)
    first = source.config()
    first.hidden_size = 0
    assert source.config().hidden_size == WIDE["hidden_size"]
    write_template(save_decoder("llama", tmp_path / "model", **WIDE, vocab_size=77), "llama", path)
    assert source.config().vocab_size == 77


def test_a_budget_is_shared_among_the_formats_of_ggml(llama: Opened, tmp_path: Path) -> None:
    write_template(llama.model, "llama", tmp_path / "float.gguf")
    _, compiled, found = compiled_after(llama.program, tmp_path / "float.gguf", avg_bits=5.2)
    with pytest.raises(UsageError, match=r"holds model\.gguf alone, which llama\.cpp runs"):
        awqc.load(compiled.folder)
    layers = {name: tensor for name, tensor in found.items() if name.startswith("blk")}
    matrices = [tensor for tensor in layers.values() if len(tensor.shape) == 2]
    kinds = {tensor.tensor_type.name for tensor in matrices}
    assert len(kinds) > 1
    assert kinds <= {"Q4_K", "Q5_K", "Q6_K", "Q8_0"}
    size = sum(int(tensor.n_bytes) for tensor in matrices)
    assert 4.5 < 8 * size / sum(int(tensor.n_elements) for tensor in matrices) <= 5.2
    check_repeated(compiled, llama.folder, tmp_path / "float.gguf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gguf": None}, "takes names, metadata and tokenizer from a GGUF file"),
        ({"gguf": "missing.gguf"}, "missing.gguf: no such file"),
        ({"gguf": "text.gguf"}, "cannot be read as a GGUF file"),
        ({"gguf": "other.gguf"}, "hold values that .* has nowhere: it is another model's"),
        ({"gguf": "part.gguf"}, "holds no tensor for 1 parameters .*up_proj"),
        ({"gguf": "iq.gguf"}, "is in IQ4_NL, which awqc does not make"),
        ({"gguf": "good.gguf", "formats": ("onnx",)}, "gguf is for the format gguf; ask for it"),
        ({"gguf": "good.gguf", "formats": ("onnx", "gguf")}, "the format onnx cannot hold"),
        ({"gguf": "good.gguf", "runtime_scales": "always"}, "the format gguf has no place"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_before_work(
    options: dict[str, Any],
    message: str,
    small: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = small.model
    write_template(model, "llama", tmp_path / "good.gguf")
    (tmp_path / "text.gguf").write_text("no GGUF")
    torch.manual_seed(1)
    other = type(model)(model.config)
    write_template(other, "llama", tmp_path / "other.gguf")
    tensors = gguf_tensors(model, "llama")
    without(tmp_path / "good.gguf", tmp_path / "part.gguf", "blk.0.ffn_up.weight")
    retyped(tmp_path / "good.gguf", tmp_path / "iq.gguf", "blk.0.ffn_up.weight")
    assert "blk.0.ffn_up.weight" in tensors
    with pytest.raises(UsageError, match=message):
        compile_loaded(small.program, **{"formats": ("gguf",), "effort": "fast", **options})


def copied(source: Path, target: Path, change: Any) -> None:
    """``source`` with tensors as ``change`` of each gives them: its bytes and type, or None."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kinds = field.types
            writer.add_key_value(key, field.contents(), kinds[0], sub_type=kinds[-1])
    for tensor in reader.tensors:
        made = change(tensor)
        if made is not None:
            writer.add_tensor(tensor.name, made[0], raw_dtype=made[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def without(source: Path, target: Path, name: str) -> None:
    copied(source, target, lambda t: None if t.name == name else (t.data, t.tensor_type))


def retyped(source: Path, target: Path, name: str) -> None:
    """The tensor ``name`` in a type of blocks that awqc does not make, nearly as it was."""
    from gguf import GGMLQuantizationType

    def change(tensor: Any) -> Any:
        if tensor.name != name:
            return tensor.data, tensor.tensor_type
        return nonlinear(values(tensor)), GGMLQuantizationType.IQ4_NL

    copied(source, target, change)


def nonlinear(weight: Tensor) -> Any:
    """Blocks of IQ4_NL: a float16 factor, and 32 codes of its table."""
    from gguf.quants import IQ4_NL

    table = torch.tensor(IQ4_NL.kvalues, dtype=torch.float32)
    blocks = weight.reshape(len(weight), -1, 32)
    d = (blocks.abs().amax(-1, keepdim=True) / 113).to(torch.float16)
    scaled = blocks / d.float().clamp(min=1e-8)
    codes = (scaled.unsqueeze(-1) - table).abs().argmin(-1).to(torch.uint8)
    packed = codes[..., :16] | codes[..., 16:] << 4
    return torch.cat([d.view(torch.uint8), packed], dim=-1).flatten(1).numpy()


def rows_exchanged(data: Any) -> None:
    data[[0, 1]] = data[[1, 0]]


def one_code_moved(data: Any) -> None:
    data[3, 40] ^= 1  # behind the factors and scales of the first super-block


def no_scales(data: Any) -> None:
    data[:] = 1.0


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("blk.1.attn_k.weight", rows_exchanged),
        ("blk.0.ffn_down.weight", one_code_moved),
        ("blk.0.ffn_norm.weight", no_scales),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_holds_something_else_is_not_published(
    name: str,
    spoil: Callable[[Any], None],
    llama: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exporter damaged: a norm is seen by what transformers makes of the file."""
    from awqc.export import gguf as exporter

    write_template(llama.model, "llama", tmp_path / "float.gguf")
    write = exporter.write_gguf

    def damage(program: Program, folder: Path) -> Path:
        path = write(program, folder)
        good = path.rename(path.with_suffix(".good"))

        def change(tensor: Any) -> Any:
            data = tensor.data.copy()
            if tensor.name == name:
                spoil(data)
            return data, tensor.tensor_type

        copied(good, path, change)
        good.unlink()
        return path

    monkeypatch.setattr(exporter, "write_gguf", damage)
    with pytest.raises(VerificationError, match=r"model\.gguf"):
        compiled_after(llama.program, tmp_path / "float.gguf")
