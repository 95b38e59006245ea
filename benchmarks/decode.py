"""Decoding and reading prompts, form beside form: in onnxruntime, and GGUF files in llama.cpp.

    python -m benchmarks.decode before=FOLDER after=FOLDER other=FILE.gguf   # results/decode.json

Times are CPU seconds of one thread; with ``--threads 2`` those of the clock. Each folder holds a
decoder with a cache as ``model.onnx``: ``ort/`` of a compiled folder, or what another exporter
wrote with the same names of inputs and outputs. Models take turns step by step, in another order
each time (who follows whom matters: a sixth of a step), so that whatever else the machine does
meets all alike; numbers are medians. ``prefill``: tokens a second of a prompt
of 256, of which the logits of the last token are asked for where the model can be asked;
``decode``: tokens a second behind it; ``step_ms``: of one token behind 1000. A cache that can be
shared stays where it is; ``--share NAME`` says that of a model which does not say it of itself.
``--zero-points NAME`` measures that model once more, with zero points in its 4-bit products where
they have none: kernels take longer with them. ``nodes`` is the graph as onnxruntime runs it.
"""

from __future__ import annotations

import argparse
import atexit
import json
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from awqc.kv_cache import LOGITS_START
from awqc.report.content import environment
from awqc.runtimes.ort_model import OrtModel
from benchmarks.decode_llama import LlamaCpp

RESULTS = Path(__file__).parent / "results" / "decode.json"
PROMPT, NEW, LONG, STEPS, TURNS = 256, 32, 1000, 16, 5
FIRST_ID = 100
PLAIN, MIDDLES = 3, 0x88
"""Operands of a product without zero points, and two of these beside each other."""
Array = np.ndarray[Any, Any]


def reader(
    model: OrtModel | LlamaCpp, tokens: int, share: bool
) -> Callable[[dict[str, Array]], None]:
    """What reads tokens into a cache of its own."""
    if isinstance(model, LlamaCpp):
        return model.reader(tokens)
    if share:
        cache = model.shared_cache(tokens)
        return lambda feeds: void(cache.step(feeds))
    past = model.empty_states()

    def read(feeds: dict[str, Array]) -> None:
        nonlocal past
        _, past = model.step(model.hold(feeds) | past)

    return read


def void(_: object) -> None:
    """Let go of what was made."""


def feeds(start: int, stop: int) -> dict[str, Array]:
    """Tokens ``start`` to ``stop`` of a made-up text."""
    places = np.arange(start, stop, dtype=np.int64)[None]
    mask = np.ones((1, stop), np.int64)
    return {"input_ids": places + FIRST_ID, "attention_mask": mask, "position_ids": places}


def turns(
    models: Mapping[str, tuple[OrtModel | LlamaCpp, bool]],
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each model for each number, once for a prompt and once a step; ``clock`` tells."""
    found: dict[str, dict[str, list[float]]] = {
        name: {"prefill": [], "decode": [], "step_ms": []} for name in models
    }

    def readers(tokens: int) -> dict[str, Callable[[dict[str, Array]], None]]:
        return {name: reader(model, tokens, share) for name, (model, share) in models.items()}

    def timed(read: Mapping[str, Callable[..., None]], key: str, start: int, stop: int) -> None:
        for name in random.sample(list(read), len(read)):
            each = read[name]
            given = feeds(start, stop)
            began = clock()
            each(given)
            found[name][key].append(clock() - began)

    read = readers(PROMPT + NEW)
    timed(read, "prefill", 0, PROMPT)
    for place in range(PROMPT, PROMPT + NEW):
        timed(read, "decode", place, place + 1)
    read = readers(LONG + STEPS)
    for each in read.values():
        each(feeds(0, LONG))
    for place in range(LONG, LONG + STEPS):
        timed(read, "step_ms", place, place + 1)
    return found


def turn(
    model: OrtModel, share: bool, clock: Callable[[], float] = time.thread_time
) -> dict[str, float]:
    """Each number of one model once; ``clock`` tells seconds."""
    return numbers([turns({"": (model, share)}, clock)[""]])


def numbers(made: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Tokens a second of the prompt and behind it, and milliseconds of a late step: medians."""
    seconds = {
        key: statistics.median(value for each in made for value in each[key]) for key in made[0]
    }
    return {
        "prefill": PROMPT / seconds["prefill"],
        "decode": 1 / seconds["decode"],
        "step_ms": seconds["step_ms"] * 1e3,
    }


def nodes(path: Path) -> Counter[str]:
    """Operations of the graph as onnxruntime runs it, by type."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "optimized.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(target)
        name = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(name, f"{target.name}.data")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(target, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def with_zero_points(source: Path, folder: Path) -> Path:
    """The model ``source`` in ``folder``, its symmetric 4-bit products with zero points in the
    middle, which compute the same."""
    model = onnx.load(source)
    for node in model.graph.node:
        told = {each.name: each.i for each in node.attribute}
        if node.op_type == "MatMulNBits" and len(node.input) == PLAIN and told["bits"] == 4:
            blocks = -(-told["K"] // told["block_size"])
            zeros = np.full((told["N"], (blocks + 1) // 2), MIDDLES, np.uint8)
            node.input.append(f"{node.input[1]}.zero_points")
            model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, node.input[-1]))
    target = folder / "model.onnx"
    onnx.save(model, target, save_as_external_data=True, location="model.onnx.data")
    return target


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--share", action="append", default=[], metavar="NAME")
    parser.add_argument("--zero-points", action="append", default=[], metavar="NAME")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", help="under which the results stand; without it by themselves")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, scratch)
    given = (model.partition("=") for model in arguments.models)
    files = {name: model_file(Path(place)) for name, _, place in given}
    for name in arguments.zero_points:
        (scratch / name).mkdir()
        files[f"{name}, zero points"] = with_zero_points(files[name], scratch / name)
    models = {name: load(file, arguments.threads) for name, file in files.items()}
    shared = {
        name: (model, name.partition(",")[0] in arguments.share or shares(model))
        for name, model in models.items()
    }
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    made = [turns(shared, clock) for _ in range(arguments.turns)]
    result = {
        "models": {
            name: numbers([each[name] for each in made]) | graph(files[name]) for name in models
        },
        "turns": arguments.turns,
        "threads": arguments.threads,
        "environment": environment(),
    }
    print(json.dumps(result, indent=2))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.name:
        old = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
        result = {**old, arguments.name: result}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def model_file(place: Path) -> Path:
    """The model at ``place``: a GGUF file, or in a folder."""
    return place if place.is_file() else place / "model.onnx"


def load(file: Path, threads: int) -> OrtModel | LlamaCpp:
    """The model in ``file``, ready to run."""
    if file.suffix.lower() == ".gguf":
        return LlamaCpp(file, threads)
    return OrtModel(file, threads=threads, fixed={LOGITS_START: -1})


def shares(model: OrtModel | LlamaCpp) -> bool:
    """Whether the model says that its cache can stay where it is."""
    return isinstance(model, OrtModel) and model.shares_cache


def graph(file: Path) -> dict[str, Any]:
    """How many operations onnxruntime runs, and which; nothing of a GGUF file."""
    if file.suffix.lower() == ".gguf":
        return {}
    found = nodes(file)
    return {"nodes": sum(found.values()), "operations": dict(found.most_common())}


if __name__ == "__main__":
    main()
