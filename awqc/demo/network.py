"""The demonstration's network and its training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from awqc.demo.data import ToyTask
from awqc.machine.progress import track

BATCH = 64
LEARNING_RATE = 2e-3


def build_network(dims: Sequence[int], seed: int) -> nn.Sequential:
    """Linear layers ``fc1, fc2, …`` without bias, ReLU between them, logits at the end.

    Made of torch's own classes only, so that a pickle of it loads without trust.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, (width, rows) in enumerate(pairwise(dims), start=1):
            layers[f"fc{index}"] = nn.Linear(width, rows, bias=False)
            if index < len(dims) - 1:
                layers[f"relu{index}"] = nn.ReLU()
    return nn.Sequential(layers)


def train(network: nn.Module, task: ToyTask, epochs: int, seed: int) -> None:
    """Train by AdamW on cross entropy; the same seed gives the same weights on one machine."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    network.train()
    for _ in track(range(epochs), "train"):
        order = torch.randperm(len(task.train_x), generator=generator)
        for batch in order.split(BATCH):
            logits = network(task.train_x[batch])
            loss = nn.functional.cross_entropy(logits, task.train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()


def accuracy(model: Callable[[Tensor], Tensor], task: ToyTask) -> float:
    """Share of the test samples that ``model`` puts into their class."""
    with torch.no_grad():
        predicted = model(task.test_x).argmax(-1)
    return float((predicted == task.test_y).double().mean())
