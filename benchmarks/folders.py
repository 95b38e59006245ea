"""Small random models of images, audio and prompts, encoder-decoders, from folders to onnxruntime.

    python -m benchmarks.folders                       # those that are not in the results yet
    python -m benchmarks.folders --only object-detection/detr

Each is saved with its processor, compiled by its folder alone on made-up data (8 bits, effort
fast), and what comes out is run in plain onnxruntime through the processor in the compiled folder,
on data of other sizes, against the float model. Results are kept, one entry a model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.folder_models import MODELS
from benchmarks.folder_pipelines import Pipelined
from benchmarks.folder_prompted import Prompted
from benchmarks.folder_speech import Speaking, loss_of_speech
from benchmarks.isolated import Reached, isolated

HIDDEN = -1e30
"""Logits below are of tokens that are never made, such as those of pieces of images."""
RESULTS = Path(__file__).parent / "results" / "folders.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(MODELS), help="even if run before")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a model")
    chosen = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in chosen.only or [name for name in MODELS if name not in results]:
        results[name] = isolated(partial(run_one, name), chosen.timeout, stage="save")
        print(name, json.dumps(results[name]), flush=True)
        kept = {each: results[each] for each in MODELS if each in results}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    done = sum(result["stage"] == "done" for result in results.values())
    print(f"{done} of {len(results)} compiled and agree")


def run_one(name: str, reached: Reached = lambda stage: None) -> dict[str, Any]:
    """Save, compile and run one model; where it stopped, if it did not reach the end."""
    import torch

    import awqc

    torch.set_num_threads(1)
    stage, prompted = "save", isinstance(MODELS[name], Prompted)
    pipelined, speaking = (isinstance(MODELS[name], kind) for kind in (Pipelined, Speaking))
    with tempfile.TemporaryDirectory() as work:
        source, target = Path(work) / "model", Path(work) / "out"
        try:
            model = MODELS[name].save(source)
            reached(stage := "compile")
            compiled = awqc.compile(
                source, output_dir=target, bits=8, group_size=16, effort="fast",
                num_samples=6 if speaking else 10,
                formats=("onnx",), provider="cpu",
                task=name.partition("/")[0] if prompted else None,
            )  # fmt: skip
            reached(stage := "run")
            if speaking:
                loss = loss_of_speech(source, target)
            elif pipelined:
                loss = _loss_of_images(model, target)
            else:
                reads_prompt = (target / "vision_encoder.onnx").is_file()
                loss = (_loss_of_prompt if reads_prompt else _loss)(model, target)
        except Exception as error:  # noqa: BLE001 - the results are about what goes wrong
            text = " ".join(str(error).replace(work, "").split())
            return {"stage": stage, "type": type(error).__name__, "error": text[:300]}
    graphs = compiled.report.get("parts", {"": compiled.report})
    prefix = {name: f"{name}." if name else "" for name in graphs}
    return {
        "stage": "done" if loss < 0.2 else "differs",
        "inputs": [prefix[name] + each for name, part in graphs.items() for each in part["inputs"]],
        "notes": [note for part in graphs.values() for note in part["notes"]],
        "loss": round(loss, 4),
    }


def _loss(model: Any, target: Path) -> float:
    """As `_loss_of_graph`; of an encoder-decoder, that of the logits of some tokens."""
    if (target / "decoder_model_merged.onnx").is_file():
        return _loss_of_parts(model, target)
    return _loss_of_graph(model, target)


def _loss_of_parts(model: Any, target: Path) -> float:
    import numpy as np
    import torch

    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.processor import Processor
    from awqc.huggingface.recorded import model_inputs
    from awqc.huggingface.samples import Sizes
    from awqc.running.runner import task_in
    from awqc.runtimes.encoder_decoder import EncoderDecoder

    folder = HFFolder(target)
    task = task_in(folder, None)
    processor = Processor.of(folder, task.reads, task.with_prompt)
    sizes = Sizes(image=(130, 170), seconds=0.9, words=5)
    sample = processor.maker().sample(np.random.default_rng(9), sizes)
    inputs = model_inputs(model, processor, [sample])
    tokens, wanted = _tokens_and_logits(model, inputs)
    compiled = EncoderDecoder(target)
    feeds = {name: value.numpy() for name, value in inputs.items()}
    encoded = compiled.encode(feeds)
    given, states = compiled.given({**feeds, **encoded}), compiled.begun(encoded)
    found: list[torch.Tensor] = []
    seen = 0
    for some in np.array_split(tokens.numpy(), 2, axis=1):
        rows = compiled.following(feeds, seen, some.shape[1])
        outputs, states = compiled.step(some, {**given, **rows}, states)
        found.append(torch.from_numpy(outputs["logits"].numpy()))
        seen += some.shape[1]
    last = torch.cat(found, dim=1)[:, -wanted.shape[1] :]
    return float((last - wanted).norm() / wanted.norm())


def _tokens_and_logits(model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """Some tokens, and the logits of the float model behind each, or behind those of no prompt."""
    import torch

    if model.config.is_encoder_decoder:
        tokens = torch.randint(4, 100, (1, 6), generator=torch.Generator().manual_seed(9))
        with torch.no_grad():
            return tokens, model(**inputs, decoder_input_ids=tokens).logits
    made = model.generate(
        **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return made.sequences[:, :-1], torch.stack(made.logits, dim=1)


def _loss_of_prompt(model: Any, target: Path) -> float:
    """Of the logits of what follows a text with an image in it, and then of one more token."""
    import numpy as np
    import torch

    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.processor import Processor
    from awqc.huggingface.recorded import model_inputs
    from awqc.huggingface.samples import Sizes
    from awqc.program import IMAGE, TEXT
    from awqc.runtimes.image_text import ImageText

    compiled, states = ImageText(target), dict[str, Any]()
    size = None if compiled.fixed is None else compiled.fixed.size
    processor = Processor.of(HFFolder(target), (TEXT, IMAGE), prompted=True)
    processor = replace(processor, image_size=size)
    sample = processor.maker().sample(np.random.default_rng(9), Sizes(image=(130, 170), words=5))
    inputs = model_inputs(model, processor, [sample])
    settings = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
    wanted = model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
    feeds, found = {name: value.numpy() for name, value in inputs.items()}, []
    for left in (2, 1):
        tokens = wanted.sequences[:, :-left].numpy()
        outputs, states = compiled.step(tokens, {} if states else feeds, states)
        found.append(torch.from_numpy(outputs["logits"].numpy()[:, -1]))
    logits = torch.cat(wanted.logits)
    told = logits > HIDDEN
    return float((torch.cat(found) - logits)[told].norm() / logits[told].norm())


def _loss_of_images(pipeline: Any, target: Path) -> float:
    """Of the worst part on what reaches it in another run, other sizes included."""
    from awqc.huggingface.diffusion import pipeline_calls
    from awqc.recording.entries import modules_of
    from benchmarks.folder_parts import loss_of_parts

    calls = pipeline_calls(pipeline, ["a cat", "the sea", "b"], 9, "run")[1:]
    return loss_of_parts(target, modules_of(pipeline), lambda: [pipeline(**call) for call in calls])


def _loss_of_graph(model: Any, target: Path) -> float:
    """How far the first output that varies is from the float model's on new samples, relative to
    its norm; scores that are hidden, all the lowest number, tell nothing."""
    import numpy as np
    import onnxruntime
    import torch

    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.processor import Processor
    from awqc.huggingface.samples import Sizes
    from awqc.huggingface.tasks import read_by

    folder = HFFolder(target)
    processor = Processor.of(folder, *read_by(folder))
    sizes = Sizes(image=(130, 170), seconds=0.9, words=5)
    maker, random = processor.maker(), np.random.default_rng(9)
    session = onnxruntime.InferenceSession(target / "model.onnx")
    taken = [each.name for each in session.get_inputs()]
    fixed = session.get_inputs()[0].shape[0]
    count = fixed if isinstance(fixed, int) else 4
    made = processor.inputs([maker.sample(random, sizes) for _ in range(count)])
    inputs = {name: made[name] for name in taken}
    names = [each.name for each in session.get_outputs()]
    results = session.run(names, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        right = model(**inputs)
    pairs = (
        (torch.from_numpy(found), right[name]) for name, found in zip(names, results, strict=True)
    )
    found, wanted = next((now, was) for now, was in pairs if was.min() < was.max())
    return float((found - wanted).norm() / wanted.norm())


if __name__ == "__main__":
    main()
