"""Small compiled folders used by the ecosystem's own libraries, beside ``awqc run`` on the same.

``python -m benchmarks.libraries PYTHON [--node FOLDER] [-o RESULTS]``: PYTHON is that of an
environment with ``transformers<4.58 optimum optimum-onnx onnxruntime sentence-transformers
fastembed pillow``; FOLDER has the npm package ``@huggingface/transformers`` in ``node_modules``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import awqc
from awqc.running.runner import Runner
from benchmarks.folder_models import MODELS
from tests.media import write_images, write_speech
from tests.tiny_language_models import save_encoder, save_tokenizer

CLIENTS = Path(__file__).parent / "runtimes_clients"
CLIENT, NODE_CLIENT = CLIENTS / "libraries.py", CLIENTS / "transformers_js.mjs"
JAVASCRIPT = "transformers.js"
RESULTS = Path(__file__).parent / "results" / "libraries.json"
TOKENS, CLOSE, CLOSE_SHARE = 12, 1e-3, 1e-2
"""Tokens that are written for a sample; how far vectors may be apart, and shares of a class: images
are resized by another library."""
OPTIMUM = ("optimum", "optimum-onnx", "transformers", "onnxruntime")
TEXTS = ["w5 w6 w7", "w9 w30 w31 w12 w8"]


@dataclass(frozen=True)
class Case:
    """A folder, and who uses it.

    Attributes:
        client: a function of the client; of transformers.js the task.
        packages: whose versions are told.
        save: writes the model into a folder.
        inputs: what it is used on, files in a folder or texts.
    """

    client: str
    packages: tuple[str, ...]
    save: Callable[[Path], object]
    inputs: Callable[[Path], Sequence[str]]


def sentence_encoder(folder: Path) -> None:
    """Write an encoder with mean pooling and normalisation."""
    save_encoder("bert", folder)
    save_tokenizer(folder)
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "<pad>", "unk_token": "<unk>"})
    )
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "",
         "type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(kinds)
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def _of(name: str) -> Callable[[Path], object]:
    return lambda folder: MODELS[name].save(folder)


def _images(folder: Path) -> Sequence[str]:
    return [str(path) for path in write_images(folder, 4)]


def _speech(folder: Path) -> Sequence[str]:
    return [str(path) for path in write_speech(folder, 4)]


CASES = {
    "sentence-transformers, onnx": Case(
        "sentence_transformers", ("sentence-transformers", *OPTIMUM), sentence_encoder,
        lambda _: TEXTS,
    ),
    "fastembed, custom model": Case(
        "fastembed", ("fastembed", "onnxruntime"), sentence_encoder, lambda _: TEXTS
    ),
    "Optimum, ORTModelForFeatureExtraction": Case(
        "feature_extraction", OPTIMUM, sentence_encoder, lambda _: TEXTS
    ),
    "Optimum, ORTModelForImageClassification": Case(
        "image_classification", OPTIMUM, _of("image-classification/vit"), _images
    ),
    "Optimum, ORTModelForSeq2SeqLM": Case(
        "seq2seq", OPTIMUM, _of("text2text-generation/t5"),
        lambda _: ["t5 t6 t7", "t9 t30 t31 t12"],
    ),
    "Optimum, ORTModelForSpeechSeq2Seq": Case(
        "speech", OPTIMUM, _of("automatic-speech-recognition/whisper"), _speech
    ),
    f"{JAVASCRIPT} in Node, feature-extraction": Case(
        "feature-extraction", (), sentence_encoder, lambda _: TEXTS
    ),
    f"{JAVASCRIPT} in Node, image-classification": Case(
        "image-classification", (), _of("image-classification/vit"), _images
    ),
    f"{JAVASCRIPT} in Node, text2text-generation": Case(
        "text2text-generation", (), _of("text2text-generation/t5"),
        lambda _: ["t5 t6 t7", "t9 t30 t31 t12"],
    ),
    f"{JAVASCRIPT} in Node, automatic-speech-recognition": Case(
        "automatic-speech-recognition", (), _of("automatic-speech-recognition/whisper"), _speech
    ),
}  # fmt: skip


def use(case: Case, command: Sequence[str], layout: str) -> dict[str, Any]:
    """Compile the folder of ``case`` and let its library use it; what came of it.

    ``command`` runs the client, with the job and the result behind its first two words; ``layout``
    is that of the folder.
    """
    with tempfile.TemporaryDirectory() as made:
        base = Path(made)
        case.save(base / "model")
        for name, arranged in {"out": "plain", "used": layout}.items():
            awqc.compile(
                base / "model", output_dir=base / name, effort="fast", bits=8, group_size=16,
                provider="cpu", num_samples=6, formats=("onnx",), layout=arranged,
            )  # fmt: skip
        inputs = list(case.inputs(base / "data"))
        config = json.loads((base / "model" / "config.json").read_text())
        job = {
            "client": case.client, "packages": case.packages, "folder": str(base / "used"),
            "inputs": inputs, "tokens": TOKENS, "width": config.get("hidden_size"),
        }  # fmt: skip
        (base / "job.json").write_text(json.dumps(job))
        done = subprocess.run(
            [*command[:2], str(base / "job.json"), str(base / "result.json"), *command[2:]],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not (base / "result.json").is_file():
            return {"agrees": False, "error": done.stderr.strip().splitlines()[-1:]}
        result: dict[str, Any] = json.loads((base / "result.json").read_text())
        if "error" in result:
            return {"agrees": False, **result}
        runner = Runner(base / "out", max_new_tokens=TOKENS)
        wanted = [answer.content for _, answer in runner.answer(inputs)]
        return {"versions": result["versions"], **_compared(result["outputs"], wanted)}


def _compared(found: list[Any], wanted: list[Any]) -> dict[str, Any]:
    """Whether a library says what awqc says: texts, classes with their shares, or vectors."""
    if isinstance(wanted[0], str):
        same = sum(now == was for now, was in zip(found, wanted, strict=True))
        return {"agrees": same == len(wanted), "same_texts": same, "samples": len(wanted)}
    if isinstance(wanted[0][0], dict):
        best = [(each[0]["score"], each[0]["label"]) for each in wanted]
        gap = max(abs(now[0] - was[0]) for now, was in zip(found, best, strict=True))
        labels = all(now[1] == was[1] for now, was in zip(found, best, strict=True))
        return {"agrees": labels and gap < CLOSE_SHARE, "largest_gap": gap, "samples": len(wanted)}
    gap = float(np.abs(np.array(found) - np.array(wanted)).max())
    return {"agrees": gap < CLOSE, "largest_gap": gap, "samples": len(wanted)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python")
    parser.add_argument("--node", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    results = {}
    for name, case in CASES.items():
        javascript = name.startswith(JAVASCRIPT)
        if arguments.only in name and (arguments.node or not javascript):
            command = [arguments.python, str(CLIENT)]
            if javascript:
                package = arguments.node / "node_modules" / "@huggingface" / "transformers"
                command = ["node", str(NODE_CLIENT), str(package)]
            results[name] = use(case, command, JAVASCRIPT if javascript else "plain")
            print(name, json.dumps(results[name]), flush=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
