"""``awqc eval`` on compiled folders that are no causal language models, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import awqc
from awqc.cli import run
from awqc.verify.words import word_error_rate
from benchmarks.folder_models import MODELS
from tests.media import write_images, write_speech

pytestmark = pytest.mark.slow
CHEAP: dict[str, Any] = {
    "effort": "fast", "bits": 4, "group_size": 16, "provider": "cpu", "num_samples": 6,
    "formats": ("onnx",),
}  # fmt: skip


def compiled(name: str, base: Path) -> Any:
    model = MODELS[name].save(base / "model")
    awqc.compile(base / "model", output_dir=base / "out", **CHEAP)
    return model


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    base = tmp_path_factory.mktemp("vit")
    return base, compiled("image-classification/vit", base)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    base = tmp_path_factory.mktemp("t5")
    return base, compiled("text2text-generation/t5", base)


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["eval", *map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_classes_against_labels_and_the_original(
    vit: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.processor import Processor
    from awqc.huggingface.samples import Sample

    base, model = vit
    paths = write_images(tmp_path / "images", 5)
    processor = Processor.of(HFFolder(base / "model"), ("image",))
    best = []
    for path in paths:
        with Image.open(path) as image, torch.no_grad():
            inputs = processor.inputs([Sample("x", image=image.convert("RGB"))])
            best.append(int(model(**inputs).logits.argmax()))
    names = model.config.id2label
    # Right for all but the first; by name, and by number.
    labels = [names[(best[0] + 1) % len(names)], names[best[1]], *best[2:]]
    lines = [{"image": str(p), "label": each} for p, each in zip(paths, labels, strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = ("--data", tmp_path / "data.jsonl")
    result = evaluate(capsys, base / "out", *data, "--against", base / "model")
    assert result["samples"] == 5
    assert result["models"]["original"] == {"accuracy": 0.8}
    found = result["models"]["compiled"]
    assert found["outputs"]["logits"]["cosine"] > 0.99
    agreed = found["outputs"]["logits"]["top1_agreement"]
    assert agreed == 1.0
    assert found["accuracy"] == 0.8
    alone = evaluate(capsys, base / "out", *data, "--num-samples", 2)
    assert (alone["samples"], alone["models"].keys()) == (2, {"compiled"})
    assert run(["eval", str(base / "out"), *map(str, data), "--against", str(base / "model")]) == 0
    assert "compiled, logits: cosine 0.99" in capsys.readouterr().out


def test_another_model_is_not_the_original(
    vit: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForImageClassification

    base, _ = vit
    model = AutoModelForImageClassification.from_pretrained(base / "model")
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.1)
    model.save_pretrained(tmp_path / "other")
    for file in (base / "model").glob("*processor*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    write_images(tmp_path / "images", 3)
    data = ("--data", tmp_path / "images", "--against", tmp_path / "other")
    found = evaluate(capsys, base / "out", *data)["models"]["compiled"]
    assert found["outputs"]["logits"]["cosine"] < 0.9


def test_texts_that_are_written(
    t5: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    base, model = t5
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    texts = [f"t{n} t{n + 3} t{n + 20}" for n in range(4)]
    written = []
    for text in texts:
        with torch.no_grad():
            ids = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=8)
        written.append(str(tokenizer.decode(ids[0], skip_special_tokens=True)))
    targets = [f"{told} more" for told in written]
    lines = [{"text": text, "target": each} for text, each in zip(texts, targets, strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = evaluate(
        capsys, base / "out", "--data", tmp_path / "data.jsonl", "--against", base / "model",
        "--max-new-tokens", 8,
    )  # fmt: skip
    wanted = word_error_rate(zip(written, targets, strict=True))
    assert result["models"]["original"]["word_error_rate"] == pytest.approx(wanted)
    found = result["models"]["compiled"]
    assert 0 <= found["same_texts"] <= 1
    assert len(found["different"]) <= 3
    assert (found["same_texts"] == 1) == (found["word_error_rate_to_original"] == 0)
    (tmp_path / "lines.txt").write_text("\n".join(texts))
    plain = evaluate(
        capsys, base / "out", "--text", tmp_path / "lines.txt", "--against", base / "model",
        "--max-new-tokens", 8,
    )  # fmt: skip
    assert plain["models"]["compiled"]["same_texts"] == found["same_texts"]


def test_other_commands_take_several_graphs_too(
    t5: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(t5[0] / "out"), "--turns", "1", "--threads", "1"]) == 0
    assert "the whole" in capsys.readouterr().out
    assert run(["verify", str(t5[0] / "out")]) == 2
    assert "has no model.pt2" in capsys.readouterr().err


def test_a_transcript_beside_audio_is_the_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled("automatic-speech-recognition/whisper", tmp_path)
    paths = write_speech(tmp_path / "speech", 3)
    lines = [{"audio": str(path), "text": "so it was said"} for path in paths]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = evaluate(
        capsys, tmp_path / "out", "--data", tmp_path / "data.jsonl", "--against",
        tmp_path / "model", "--max-new-tokens", 6,
    )  # fmt: skip
    for scores in result["models"].values():
        assert scores["word_error_rate"] >= 1
    assert result["models"]["compiled"]["same_texts"] > 0


def test_what_cannot_be_measured_is_said(
    vit: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(vit[0] / "out")
    write_images(tmp_path / "images", 2)
    np.savez(tmp_path / "a.npz", pixel_values=np.zeros((2, 3, 32, 32), np.float32))
    (tmp_path / "a.txt").write_text("words")
    images = str(tmp_path / "images")
    cases: list[tuple[list[str], str]] = [
        ([out, "--data", images], "there is nothing to compare with"),
        ([out], "give --text for a causal language model, or --data"),
        ([out, "--data", images, "--text", str(tmp_path / "a.txt")], "give --text for a causal"),
        ([out, "--data", str(tmp_path / "a.npz")], "holds arrays; give image"),
        ([out, "--data", str(tmp_path / "absent.jsonl")], "absent.jsonl"),
        ([out, "--data", images, "--against", str(tmp_path / "nowhere")], "nowhere"),
    ]
    for arguments, message in cases:
        assert run(["eval", *arguments]) in (1, 2), arguments
        assert message in capsys.readouterr().err
