"""What sentence-transformers puts behind a model, as a part of its graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from awqc.errors import UsageError
from awqc.huggingface.capture import load_folder
from awqc.huggingface.sentence_modules import sentence_modules
from awqc.huggingface.sentence_pooling import MODES
from benchmarks.folder_models import Saved
from tests.running.test_pooling import MASK, STATES, VECTORS

WIDTH = 32
BERT = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "vocab_size": 128, "max_position_embeddings": 32}  # fmt: skip
Module = tuple[str, dict[str, Any], dict[str, Tensor]]
"""The last word of its type, its configuration, its weights."""


def written(folder: Path, *modules: Module) -> Path:
    folder.mkdir(exist_ok=True)
    listed = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, (kind, config, weights) in enumerate(modules, 1):
        place = folder / f"{index}_{kind}"
        place.mkdir()
        name = "cnn_config.json" if kind == "CNN" else "config.json"
        (place / name).write_text(json.dumps(config))
        if weights:
            save_file(weights, place / "model.safetensors")
        listed.append({"idx": index, "path": place.name, "type": f"sentence_transformers.{kind}"})
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


MEAN: Module = ("Pooling", {"pooling_mode": "mean"}, {})
DENSE: Module = (
    "Dense",
    {"in_features": WIDTH, "out_features": 24, "bias": True,
     "activation_function": "torch.nn.modules.activation.Tanh"},
    {"linear.weight": drawn(24, WIDTH), "linear.bias": drawn(24)},
)  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_over_what_is_no_padding(mode: str) -> None:
    assert set(MODES) == set(VECTORS)
    states, mask = torch.from_numpy(STATES), torch.from_numpy(MASK).double()
    found = MODES[mode](states, mask)[0]
    torch.testing.assert_close(found, torch.tensor(VECTORS[mode], dtype=torch.double))
    behind = [each.flip(1) for each in (states, mask)]  # padding in front, as decoders have it
    order = {"cls": "lasttoken", "lasttoken": "cls", "weightedmean": ""}.get(mode, mode)
    if order:
        torch.testing.assert_close(MODES[mode](*behind)[0], MODES[order](states, mask)[0])


def test_they_are_a_part_of_the_graph(tmp_path: Path) -> None:
    """For texts of any length; weights of theirs are weights of the model's graph."""
    norm = {"norm.weight": drawn(24), "norm.bias": drawn(1, 24)[0]}
    saved = Saved("bert", "AutoModel", BERT, "", {}, tokenizer=True)
    model = saved.save(tmp_path)
    layer_norm = ("LayerNorm", {"dimension": 24}, norm)
    written(tmp_path, MEAN, DENSE, layer_norm, ("Normalize", {}, {}))
    program = load_folder(tmp_path, task="sentence-similarity")
    assert program.outputs == ("token_embeddings", "sentence_embedding")
    assert any(name.endswith("linear.weight") for name in program.parameters())
    ids = torch.randint(4, 100, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    states, vector = program.run({spec.name: batch[spec.name] for spec in program.inputs})
    with torch.no_grad():
        wanted = model(**batch).last_hidden_state
        mean = (wanted * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        x = torch.tanh(mean @ DENSE[2]["linear.weight"].T + DENSE[2]["linear.bias"])
        x = nn.functional.layer_norm(x, (24,), norm["norm.weight"], norm["norm.bias"])
    torch.testing.assert_close(states, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vector, nn.functional.normalize(x, dim=-1), rtol=1e-4, atol=1e-5)


def test_modules_may_be_for_the_vectors_of_tokens(tmp_path: Path) -> None:
    config = {"in_features": 2, "out_features": 3, "bias": False, "use_residual": True,
              "activation_function": "torch.nn.modules.linear.Identity",
              "module_input_name": "token_embeddings"}  # fmt: skip
    weights = {"linear.weight": drawn(3, 2), "residual.weight": drawn(2, 3).T.contiguous()}
    folder = written(
        tmp_path, ("Dense", config, weights), ("Dropout", {"dropout": 0.1}, {}), MEAN
    )  # fmt: skip
    states = drawn(1, 4, 2)
    made = sentence_modules(folder)(
        {"token_embeddings": states, "attention_mask": torch.ones(1, 4)}
    )  # fmt: skip
    rows = states @ (weights["linear.weight"] + weights["residual.weight"]).T
    torch.testing.assert_close(made["sentence_embedding"], rows.mean(dim=1))


def test_layers_and_neighbours_are_joined(tmp_path: Path) -> None:
    layered = ("WeightedLayerPooling", {"num_hidden_layers": 2, "layer_start": 1},
               {"layer_weights": torch.tensor([1.0, 3.0])})  # fmt: skip
    kernels = {f"convs.0.{name}": value for name, value in nn.Conv1d(2, 3, 3).state_dict().items()}
    cnn = ("CNN", {"in_word_embedding_dimension": 2, "out_channels": 3, "kernel_sizes": [3]},
           kernels)  # fmt: skip
    layers = [drawn(1, 4, 2) * number for number in (1, 2, 3)]
    known = {"token_embeddings": layers[-1], "all_layer_embeddings": layers,
             "attention_mask": torch.ones(1, 4)}  # fmt: skip
    made = sentence_modules(written(tmp_path, layered, cnn, MEAN))(known)
    mixed = (layers[1] + 3 * layers[2]) / 4
    rows = nn.functional.conv1d(
        mixed.transpose(1, 2), kernels["convs.0.weight"], kernels["convs.0.bias"], padding=1
    )
    torch.testing.assert_close(made["sentence_embedding"], rows.mean(dim=2))


REFUSED: dict[str, tuple[list[Module], str]] = {
    "a kind": ([MEAN, ("LSTM", {}, {})], "sentence_transformers.LSTM follows the model, which is"),
    "an activation": (
        [MEAN, ("Dense", {**DENSE[1], "activation_function": "os.system"}, DENSE[2])],
        "os.system is no module of torch.nn",
    ),
    "no weights": ([MEAN, ("Dense", DENSE[1], {})], "has no model.safetensors or pytorch_model"),
    "no vector": ([("Normalize", {}, {})], "nothing in it makes one vector"),
    "sizes": (
        [MEAN, ("Dense", {**DENSE[1], "out_features": "x"}, DENSE[2])],
        "'out_features' is a str; a whole number is needed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_or_damaged_is_said(case: str, tmp_path: Path) -> None:
    modules, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        sentence_modules(written(tmp_path, *modules))


def test_pooling_without_a_configuration_is_refused(tmp_path: Path) -> None:
    (written(tmp_path, MEAN) / "1_Pooling" / "config.json").unlink()
    with pytest.raises(UsageError, match=r"1_Pooling: has no config\.json, which says how"):
        sentence_modules(tmp_path)


def test_a_folder_without_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no modules\.json"):
        sentence_modules(tmp_path)
