"""A second SmolLM2 whose weights lie on no 4-bit grid: a short seeded fine-tune in float.

    python -m benchmarks.finetune --text TEXT       # prints where the folder is

`benchmarks.models.smollm2` came out of 4-bit codes in blocks of 32. Training alone leaves most
weights within a twentieth of a step of that grid, and a quantizer that finds the grid again then
even undoes the training (HQQ: perplexity 41.8, the trained model itself 42.7). So the weights of
all linear layers but the head get normal noise of `NOISE` grid steps first, and steps of AdamW
bring the model back. How far weights moved, in grid steps, is written beside the model as
``finetune.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from awqc.data.text_batches import TextModel, packed_sequences
from awqc.huggingface.config_values import context_length
from awqc.huggingface.folder import HFFolder
from benchmarks.models import ModelUnavailableError, cache_directory, smollm2

STEPS, WARMUP, ROWS, LENGTH, SKIP = 60, 10, 1, 512, 128
LINEAR = "_proj.weight"
RATE, SEED, BLOCK = 4e-4, 0, 32
NOISE = 0.35
"""Of a grid step: one weight in seven is nearer to another point of the grid then."""


def finetuned_smollm2() -> Path:
    """The folder, which `main` makes.

    Raises:
        ModelUnavailableError: it was not made yet.
    """
    folder = cache_directory() / "smollm2-135m-finetuned"
    if not (folder / "config.json").is_file():
        raise ModelUnavailableError("python -m benchmarks.finetune --text TEXT makes this model")
    return folder


def grid_steps(before: Tensor, after: Tensor) -> Tensor:
    """How far each weight moved, in steps of the 4-bit grid of its block of 32."""
    return (after - before).abs().reshape(-1, BLOCK) / grid_step(before)


def grid_step(weight: Tensor) -> Tensor:
    """The distance of grid points in each block: ``(blocks, 1)``."""
    blocks = weight.reshape(-1, BLOCK)
    return (blocks.amax(1, keepdim=True) - blocks.amin(1, keepdim=True)).clamp_min(1e-12) / 15


def leave_grid(model: Any, seed: int) -> None:
    """Add the noise to ``model``, in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith(LINEAR):
            noise = torch.randn(weight.shape, generator=generator).reshape(-1, BLOCK)
            weight.data += (NOISE * grid_step(weight.data) * noise).reshape(weight.shape)


def rate(step: int) -> float:
    """Share of the peak rate: up in a line, down in a half cosine."""
    return min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / STEPS))


def finetune(model: Any, sequences: Tensor) -> list[float]:
    """Train ``model`` in place on ``(steps * rows, tokens)``; the loss of each step."""
    trained = [w.requires_grad_(name.endswith(LINEAR)) for name, w in model.named_parameters()]
    optimizer = torch.optim.AdamW(
        [weight for weight in trained if weight.requires_grad],
        lr=RATE,
        betas=(0.9, 0.99),
        weight_decay=0.0,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses = []
    for ids in sequences.split(ROWS):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(f"step {len(losses)}: loss {losses[-1]:.3f}", flush=True)
    return losses


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, float]:
    """Median and mean move of the linear layers' weights, in grid steps."""
    steps = torch.cat(
        [
            grid_steps(before[name], after[name]).flatten()[::97]
            for name in before
            if name.endswith(LINEAR)
        ]
    )
    far = float((steps > 0.5).double().mean())
    return {"median": float(steps.median()), "mean": float(steps.mean()), "share_over_0.5": far}


def main() -> None:
    """Train, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="text to train on")
    given = parser.parse_args()
    torch.manual_seed(SEED)
    source, target = smollm2(), cache_directory() / "smollm2-135m-finetuned"
    folder = HFFolder.at(source)
    tokenizer = folder.tokenizer()
    text = TextModel(tokenizer, context_length(folder.config()), len(tokenizer), cached=True)
    # The first sequences calibrate in the table: training takes what follows them.
    sequences = packed_sequences(text, given.text, SKIP + STEPS * ROWS, LENGTH)[SKIP:]
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    leave_grid(model, SEED)
    losses = finetune(model, sequences)
    shutil.copytree(source, target, dirs_exist_ok=True)
    model.save_pretrained(target)
    record = {"loss": losses, "grid_steps": moved(before, model.state_dict())}
    (target / "finetune.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["grid_steps"]), target)


if __name__ == "__main__":
    main()
