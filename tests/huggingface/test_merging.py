"""Adapters merged into their base, against the adapter running beside the model's layers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import awqc
from awqc.cli import run
from awqc.errors import AwqcError, CaptureError, UsageError
from awqc.huggingface.adapter import Adapter, Update
from awqc.huggingface.merging import Pair, Renaming, find_pair, merged_folder
from awqc.sources.source import load_program
from tests.adapters import PREFIX, adapted, write_adapter
from tests.tiny_language_models import VOCABULARY, save_decoder, save_encoder, save_tokenizer

QUERY, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
IDS = torch.randint(4, VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@torch.no_grad()
def logits(program: Any, ids: torch.Tensor) -> torch.Tensor:
    from awqc.huggingface.tokens import token_batch

    found: torch.Tensor = program.run(token_batch(program, ids))[0]
    return found


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["whole", "sharded"])
def test_the_merged_model_is_the_model_with_its_adapter(shards: dict[str, Any]) -> None:
    model = save_decoder("llama", Path("base"))
    model.save_pretrained("base", **shards)
    if shards:
        Path("base/model.safetensors").unlink()
    tensors = write_adapter(Path("lora"), model, [QUERY, DOWN])
    program = load_program("base", adapter="lora")
    assert program.name == "lora"
    wanted = adapted(model, tensors, scale=8 / 2)(IDS).logits.detach()
    torch.testing.assert_close(logits(program, IDS), wanted, rtol=1e-4, atol=1e-5)
    plain = logits(load_program("base"), IDS)
    assert float((plain - wanted).abs().max()) > 0.1, "the adapter changes what comes out"
    assert {Path("base"), Path("lora")} <= set(program.files)


def test_scales_follow_the_configuration() -> None:
    model = save_decoder("llama", Path("base"))
    write_adapter(Path("lora"), model, [QUERY, DOWN], use_rslora=True,
                  alpha_pattern={r"layers\.1\..*": 3})  # fmt: skip
    updates = Adapter.read(Path("lora")).updates
    assert updates[QUERY].scale == pytest.approx(8 / math.sqrt(2))
    assert updates[DOWN].scale == pytest.approx(3 / math.sqrt(2))
    tensors = write_adapter(Path("other"), model, [QUERY], rank=3, rank_pattern={"q_proj": 3}, r=8)
    assert Adapter.read(Path("other")).updates[QUERY].scale == pytest.approx(8 / 3)
    assert len(tensors) == 2


def test_an_update_of_every_kind_of_layer() -> None:
    torch.manual_seed(0)
    down, up = torch.randn(2, 6), torch.randn(4, 2)
    linear = nn.Linear(6, 4, bias=False)
    x = torch.randn(3, 6)
    wanted = linear(x) + 0.5 * (x @ down.T @ up.T)
    made = Update("a", down, up, 0.5).apply(linear.weight.detach(), transposed=False)
    torch.testing.assert_close(x @ made.T, wanted)
    turned = Update("a", down, up, 0.5).apply(linear.weight.detach().t(), transposed=True)
    torch.testing.assert_close(turned, made.T.contiguous())
    lengths = torch.rand(4) + 0.5
    dora = Update("a", down, up, 0.5, magnitude=lengths).apply(linear.weight.detach(), False)
    torch.testing.assert_close(dora.norm(dim=1), lengths)
    torch.testing.assert_close(nn.functional.cosine_similarity(dora, made), torch.ones(4))
    table, rows = torch.randn(7, 4), torch.randn(2, 7)
    looked = Update("a", rows, up, 0.5, embedding=True).apply(table, transposed=False)
    torch.testing.assert_close(looked, table + 0.5 * (up @ rows).T)
    conv = nn.Conv2d(3, 4, 3, bias=False)
    first, second = nn.Conv2d(3, 2, 3, bias=False), nn.Conv2d(2, 4, 1, bias=False)
    image = torch.randn(1, 3, 8, 8)
    kernel = Update("a", first.weight.detach(), second.weight.detach(), 0.5).apply(
        conv.weight.detach(), transposed=False
    )
    torch.testing.assert_close(
        nn.functional.conv2d(image, kernel), conv(image) + 0.5 * second(first(image)),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    half = Update("a", down, up, 0.5).apply(linear.weight.detach().bfloat16(), False)
    assert half.dtype == torch.bfloat16


def test_a_layer_that_holds_its_weight_transposed() -> None:
    model = save_decoder("gpt2", Path("base"), n_embd=32, n_head=4, n_layer=1)
    layer = "transformer.h.0.attn.c_proj"  # 32 x 32: its shape does not tell
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    Path("lora").mkdir()
    names = [f"{PREFIX}{layer}.lora_{each}.weight" for each in "AB"]
    save_file(dict(zip(names, (down, up), strict=True)), "lora/adapter_model.safetensors")
    Path("lora/adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1}')
    folder = merged_folder(Pair(Path("base"), Path("lora"), named=False))
    before = model.state_dict()[f"{layer}.weight"]
    after = load_file(folder / "model.safetensors")[f"{layer}.weight"]
    torch.testing.assert_close(after, before + 0.5 * (up @ down).T)


def test_tensors_that_were_trained_whole_take_the_place_of_the_bases() -> None:
    model = save_decoder("llama", Path("base"))
    tensors = write_adapter(Path("lora"), model, [QUERY])
    norm, head = torch.full((32,), 3.0), torch.ones(2, 32)
    save_file({**tensors, f"{PREFIX}model.norm.weight": norm, f"{PREFIX}score.weight": head},
              "lora/adapter_model.safetensors")  # fmt: skip
    found = load_file(merged_folder(Pair(Path("base"), Path("lora"), False)) / "model.safetensors")
    assert torch.equal(found["model.norm.weight"], norm.to(found["model.norm.weight"].dtype))
    assert torch.equal(found["score.weight"], head)


def test_other_weights_keep_their_bytes_and_files_come_along() -> None:
    model = save_decoder("llama", Path("base"))
    model.bfloat16().save_pretrained("base")
    save_tokenizer(Path("base"))
    write_adapter(Path("lora"), model, [QUERY])
    Path("lora/chat_template.jinja").write_text("theirs")
    Path("lora/tokenizer_config.json").write_text(Path("base/tokenizer_config.json").read_text())
    Path("base/optimizer.pt").write_bytes(b"large")
    folder = merged_folder(Pair(Path("base"), Path("lora"), False))
    before, after = load_file("base/model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == [
        f"{QUERY}.weight"
    ]
    assert {value.dtype for value in after.values()} == {torch.bfloat16}
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert not names & {"optimizer.pt", "adapter_config.json"}
    assert merged_folder(Pair(Path("base"), Path("lora"), False)) == folder, "once is enough"


def test_weights_of_torchs_own_format() -> None:
    model = save_decoder("llama", Path("base"))
    torch.save(model.state_dict(), "base/pytorch_model.bin")
    Path("base/model.safetensors").unlink()
    tensors = write_adapter(Path("lora"), model, [QUERY])
    torch.save(tensors, "lora/adapter_model.bin")
    Path("lora/adapter_model.safetensors").unlink()
    wanted = adapted(model, tensors, scale=4)(IDS).logits.detach()
    program = load_program("base", adapter="lora")
    torch.testing.assert_close(logits(program, IDS), wanted, rtol=1e-4, atol=1e-5)


def test_names_with_a_prefix_more_or_less() -> None:
    there = ["bert.layer.0.weight", "bert.layer.1.weight", "cls.weight"]
    assert Renaming.between(["layer.0.weight", "layer.1.weight"], there) == Renaming(put="bert.")
    assert Renaming.between(["a.bert.layer.0.weight"], there) == Renaming(cut="a.")
    assert Renaming.between(["bert.layer.0.weight"], there) == Renaming()
    save_encoder("bert", Path("base"))
    from transformers import AutoModel

    write_adapter(Path("lora"), AutoModel.from_pretrained("base"), ["encoder.layer.0.output.dense"])
    before = load_file("base/model.safetensors")
    after = load_file(merged_folder(Pair(Path("base"), Path("lora"), False)) / "model.safetensors")
    (changed,) = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed.endswith("encoder.layer.0.output.dense.weight")


@pytest.mark.parametrize("where", ["here", "beside", "absolute"])
def test_an_adapter_alone_finds_the_base_that_it_names(where: str) -> None:
    model = save_decoder("llama", Path("lora/base" if where == "beside" else "base"))
    name = {"here": "base", "beside": "base", "absolute": os.path.abspath("base")}[where]
    write_adapter(Path("lora"), model, [QUERY], base_model_name_or_path=name)
    program = load_program("lora")
    assert any("which adapter_config.json names as its base" in note for note in program.notes)


def test_a_base_under_another_name_is_told() -> None:
    model = save_decoder("llama", Path("base"))
    write_adapter(Path("lora"), model, [QUERY], base_model_name_or_path="somebody/else")
    notes = load_program("base", adapter="lora").notes
    assert any("names somebody/else as its base" in note for note in notes)
    write_adapter(Path("lora2"), model, [QUERY], base_model_name_or_path="somebody/base")
    assert not any("base" in note for note in load_program("base", adapter="lora2").notes)


def test_the_base_may_lie_in_the_folder_of_the_adapter() -> None:
    model = save_decoder("llama", Path("both"))
    tensors = write_adapter(Path("both"), model, [QUERY])
    with pytest.raises(UsageError, match="holds an adapter"):
        load_program("both")
    wanted = adapted(model, tensors, scale=4)(IDS).logits.detach()
    found = logits(load_program("both", adapter="both"), IDS)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def drop_pair(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors[f"{PREFIX}{QUERY}.lora_B.weight"]
    save_file(tensors, folder / "adapter_model.safetensors")


def add_unknown(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[f"{PREFIX}{QUERY}.lora_E"] = torch.ones(3)
    save_file(tensors, folder / "adapter_model.safetensors")


def other_layers(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    renamed = {name.replace("q_proj", "qkv_proj"): value for name, value in tensors.items()}
    save_file(renamed, folder / "adapter_model.safetensors")


def other_sizes(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    name = f"{PREFIX}{QUERY}.lora_A.weight"
    tensors[name] = torch.zeros(2, 48)
    save_file(tensors, folder / "adapter_model.safetensors")


def cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-20])


def configured(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


BROKEN: dict[str, tuple[Callable[[Path], None], type[AwqcError], str]] = {
    "no weights": (no_weights, UsageError, "without its weights"),
    "cut short": (cut, CaptureError, "adapter_model.safetensors: is damaged"),
    "half a pair": (drop_pair, UsageError, f"has no lora_B.weight for {QUERY}"),
    "unknown matrix": (add_unknown, UsageError, f"lora_E for {QUERY}"),
    "other rank": (configured(r=3), UsageError, r"q_proj.*\[2, 32\].*says rank 3"),
    "other layers": (other_layers, UsageError, "changes .*qkv_proj.weight, which the model in .*"
                     "base does not have"),
    "other sizes": (other_sizes, UsageError, r"\[32, 48\].*\[32, 32\]: the adapter was trained on"),
    "another kind": (configured(peft_type="IA3"), UsageError, "of the kind IA3; LoRA is merged"),
    "no kind": (configured(peft_type=""), UsageError, "that is not named"),
    "kind is a number": (configured(peft_type=3), UsageError, "'peft_type' is a int"),
    "base was changed": (configured(init_lora_weights="pissa"), UsageError, "'pissa'.*merge_and_"),
    "parameters": (configured(target_parameters=["a"]), UsageError, "has target_parameters"),
    "no pattern": (configured(rank_pattern={"(": 2}), UsageError, "rank_pattern has"),
    "no rank": (configured(rank_pattern={"q_proj": "x"}), UsageError, "has 'x'; a number"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_adapters_that_cannot_be_merged_are_refused(what: str) -> None:
    breaks, kind, message = BROKEN[what]
    model = save_decoder("llama", Path("base"))
    write_adapter(Path("lora"), model, [QUERY])
    breaks(Path("lora"))
    with pytest.raises(kind, match=message):
        load_program("base", adapter="lora")


def test_a_shared_table_is_not_split() -> None:
    model = save_decoder("llama", Path("base"), tie_word_embeddings=True)
    write_adapter(Path("lora"), model, ["lm_head"])
    with pytest.raises(UsageError, match=r"lm_head\.weight.*shared with another layer"):
        load_program("base", adapter="lora")


def test_what_cannot_be_found_is_said() -> None:
    model = save_decoder("llama", Path("base"))
    write_adapter(Path("lora"), model, [QUERY], base_model_name_or_path="hub/name")
    with pytest.raises(UsageError, match="its base, hub/name, is not here: give the base's folder"):
        load_program("lora")
    with pytest.raises(UsageError, match=r"absent: has no adapter_config\.json"):
        load_program("base", adapter="absent")
    with pytest.raises(UsageError, match=r"lora: has no config\.json"):
        load_program("lora", adapter="lora")
    torch.save(nn.Linear(8, 4), "model.pt")
    with pytest.raises(UsageError, match="merged into a Hugging Face folder; MODEL is none"):
        load_program("model.pt", adapter="lora")
    with pytest.raises(UsageError, match="load it into the module"):
        awqc.compile(nn.Linear(8, 4), (torch.ones(2, 8),), adapter="lora")


def test_code_of_a_base_that_a_file_names_is_not_run() -> None:
    model = save_decoder("llama", Path("base"))
    write_adapter(Path("lora"), model, [QUERY], base_model_name_or_path="base")
    with pytest.raises(UsageError, match=r"Python files of base, which adapter_config.json names"):
        load_program("lora", trust_remote_code=True)
    assert find_pair(Path("base"), "lora", trust_remote_code=True) is not None
    for name in ("//server/share", "\\\\server\\share"):
        write_adapter(Path("lora"), model, [QUERY], base_model_name_or_path=name)
        with pytest.raises(UsageError, match="is not here"):
            load_program("lora")


def test_the_command_compiles_and_verifies_a_merged_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = save_decoder("llama", Path("base"))
    save_tokenizer(Path("base"))
    write_adapter(Path("lora"), model, [QUERY, DOWN], base_model_name_or_path="base")
    options = ["--bits", "8", "--num-samples", "4", "--seq-len", "16", "--effort", "fast"]
    assert run(["compile", "lora", *options]) == 0
    assert "which adapter_config.json names as its base" in capsys.readouterr().err
    report = json.loads(Path("lora-awq/report.json").read_text())
    assert report["verify"]["original"]["sqnr_db"] > 20
    for against in (["lora"], ["base", "--adapter", "lora"]):
        assert run(["verify", "lora-awq", "--num-samples", "4", "--against", *against]) == 0
    assert run(["verify", "lora-awq", "--num-samples", "4", "--against", "base"]) == 1
