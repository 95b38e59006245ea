"""What every script here shares: the request, the float model, the clock, and the answer.

Each script runs in its tool's own environment and imports nothing of awqc::

    python run_TOOL.py --model FOLDER --tokens TOKENS.npz --method M --bits B --group-size G \
        --seed S --weights OUT.safetensors --answer OUT.json

It writes the weights that the quantized model computes with, as floats: codes times scales; a
multiply that stays in the graph at run time is multiplied into them, which is the same function.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

SCALE_BITS = 16
NOT_OFFERED = "not_offered"
"""What the answer has in place of numbers where the tool has no such method."""


class NotOfferedError(Exception):
    """The tool has no such method at such bits or groups; the message says what it lacks."""


@dataclass(frozen=True)
class Request:
    """What to do.

    Attributes:
        folder: of the float model.
        ids: token ids int64 ``(sequences, tokens)``.
        mask: int64, 0 on padding, of the same shape.
        causal: whether it is a language model that gives logits.
        method: one of the tool's.
        bits: width of a code.
        group_size: columns that share a scale; -1: a whole row.
        seed: for whatever is random.
    """

    folder: Path
    ids: Tensor
    mask: Tensor
    causal: bool
    method: str
    bits: int
    group_size: int
    seed: int

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The float model."""
        loader = transformers.AutoModelForCausalLM if self.causal else transformers.AutoModel
        return loader.from_pretrained(self.folder, dtype=dtype).eval()

    def first(self, sequences: int) -> Request:
        """The same with the first ``sequences`` only, for a method that costs too much."""
        return replace(self, ids=self.ids[:sequences], mask=self.mask[:sequences])

    def batches(self, size: int = 1) -> Iterator[dict[str, Tensor]]:
        """``input_ids`` and ``attention_mask``, cut where every row is padding."""
        for ids, mask in zip(self.ids.split(size), self.mask.split(size), strict=True):
            longest = int(mask.sum(1).max())
            yield {"input_ids": ids[:, :longest], "attention_mask": mask[:, :longest]}


@dataclass
class Answer:
    """What came out.

    Attributes:
        weights: float tensors by the names of the float model's state; others did not change.
        zero_point_bits: of each group: 0 where symmetric, 16 where it is a float.
        samples: calibration sequences that were used.
        runtime_scales: numbers that multiply activations at run time.
        notes: what a reader must know.
        eight: layers at 8 bits, a scale and an 8-bit zero point a row, by module path.
        stored_bits: of each layer with all that belongs to it, by module path, where a format
            of its own says it.
    """

    weights: dict[str, Tensor]
    zero_point_bits: int
    samples: int
    runtime_scales: int = 0
    notes: tuple[str, ...] = ()
    eight: frozenset[str] = frozenset()
    stored_bits: Mapping[str, int] = field(default_factory=dict)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """What is quantized: all linear layers but the head, by module path."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    }


def beside(model: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """What a scale may be folded into beside the weights: tensors of norms, and biases.

    Only those in ``names``, the float model's: a wrapped layer keeps its bias under another.
    """
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name in names and ("norm" in name.lower() or name.endswith(".bias"))
    }


@torch.no_grad()
def effective_weight(module: nn.Module, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a quantized linear layer multiplies its input with: its answers to unit inputs."""
    answers: Tensor = module(torch.eye(columns, dtype=dtype))
    return (answers - module(torch.zeros(1, columns, dtype=dtype))).T.float()


def effective_bits(shapes: dict[str, tuple[int, ...]], request: Request, answer: Answer) -> float:
    """Bits a weight with all that is stored for it: scales in 16 bits, and zero points."""
    total, count = 16.0 * answer.runtime_scales, 0
    for name, (rows, columns) in shapes.items():
        count += rows * columns
        if name in answer.stored_bits:
            total += answer.stored_bits[name]
            continue
        bits, zero_point, groups = request.bits, answer.zero_point_bits, 1
        if name in answer.eight:
            bits = zero_point = 8
        elif request.group_size != -1:
            groups = -(-columns // request.group_size)
        total += rows * columns * bits
        total += rows * groups * (SCALE_BITS + zero_point)
    return total / count


Quantize = Callable[[Request, nn.Module], Answer]


def run(quantize: Quantize, dtype: torch.dtype = torch.float32) -> None:
    """Read the command line, quantize, and write the answer."""
    arguments, request = parse()
    torch.manual_seed(request.seed)
    model = request.model(dtype)
    shapes = {name: tuple(module.weight.shape) for name, module in linears(model).items()}
    started = cpu_seconds()
    try:
        answer = quantize(request, model)
    except NotOfferedError as reason:
        arguments.answer.write_text(json.dumps({NOT_OFFERED: str(reason)}))
        return
    seconds = cpu_seconds() - started
    save_file(
        {name: tensor.detach().float().contiguous() for name, tensor in answer.weights.items()},
        arguments.weights,
    )
    found = {
        "effective_bits": effective_bits(shapes, request, answer),
        "runtime_scales": answer.runtime_scales,
        "cpu_s": seconds,
        "peak_rss_mib": peak_rss() / 2**20,
        "samples": answer.samples,
        "notes": list(answer.notes),
    }
    arguments.answer.write_text(json.dumps(found))


def parse() -> tuple[argparse.Namespace, Request]:
    """The command line, and the request that it makes."""
    parser = argparse.ArgumentParser()
    for name in ("--model", "--tokens", "--weights", "--answer"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--method", required=True)
    for name in ("--bits", "--group-size", "--seed"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--encoder", action="store_true")
    given = parser.parse_args()
    tokens = np.load(given.tokens)
    request = Request(
        given.model,
        torch.from_numpy(tokens["ids"]),
        torch.from_numpy(tokens["mask"]),
        not given.encoder,
        given.method,
        given.bits,
        given.group_size,
        given.seed,
    )
    return given, request


def cpu_seconds() -> float:
    """Of this process and the processes that it ran."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_rss() -> float:
    """Bytes, of the largest process."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024.0 * max(resource.getrusage(who).ru_maxrss for who in whose)
