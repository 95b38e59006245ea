"""A compile leaves the process as it found it, and other packages' deprecations stop nothing."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import awqc
from awqc.machine.process import quiet_libraries, undisturbed
from tests.tiny import GatedBlock
from tests.tiny_language_models import save_decoder, save_tokenizer

CHEAP: dict[str, Any] = {"effort": "fast", "provider": "cpu", "formats": ("onnx", "pt2")}


def state() -> dict[str, Any]:
    """All that a compile could leave changed."""
    return {
        "streams": (id(sys.stdout), id(sys.stderr)),
        "disabled": logging.root.manager.disable,
        "loggers": {
            name: (logger.level, logger.disabled, logger.propagate, tuple(logger.handlers))
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger)
        },
        "root": (logging.root.level, tuple(logging.root.handlers)),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "directory": Path.cwd(),
        "path": list(sys.path),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what differs; loggers that came with an import are no change."""
    loggers = {name: value for name, value in after["loggers"].items() if name in before["loggers"]}
    return [key for key in before if before[key] != {**after, "loggers": loggers}[key]]


class Unfinished(nn.Module):
    """Fails in the middle of a capture."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("stopped on the way")


@pytest.mark.parametrize("model", [GatedBlock(), Unfinished()], ids=["compiles", "fails"])
def test_a_compile_leaves_the_process_as_it_found_it(model: nn.Module) -> None:
    torch.set_grad_enabled(True)
    logging.getLogger("torch").setLevel(logging.ERROR)
    torch.manual_seed(7)
    before = state()
    try:
        awqc.compile(model, (torch.ones(2, 3, 32),), **CHEAP)
    except awqc.AwqcError:
        assert isinstance(model, Unfinished)
    assert changed(before, state()) == []


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_compile_takes_derivatives_where_the_caller_has_turned_them_off(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    """Bits are shared by how outputs depend on weights, which a derivative tells."""
    net, options = GatedBlock(), dict[str, Any](avg_bits=6.5, group_size=32)
    wanted = awqc.compile(net, (torch.ones(2, 3, 32),), formats=("onnx",), **options)
    with mode():
        found = awqc.compile(net, (torch.ones(2, 3, 32),), formats=("onnx",), **options)
    assert found.report["allocation"]["bits"] == wanted.report["allocation"]["bits"]
    assert len(set(found.report["allocation"]["bits"].values())) == 2
    assert found.report["verify"]["original"] == wanted.report["verify"]["original"]


def test_the_callers_transformers_stays_as_talkative_as_it_was(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from awqc.huggingface.capture import load_folder

    save_decoder("llama", tmp_path / "llama", num_hidden_layers=1)
    transformers.logging.set_verbosity_info()
    transformers.logging.enable_progress_bar()
    try:
        load_folder(tmp_path / "llama")
        assert transformers.logging.get_verbosity() == logging.INFO
        assert transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.set_verbosity_warning()


def test_what_libraries_log_is_heard_again_after_an_error() -> None:
    logger = logging.getLogger("torch.export")
    heard = []

    def fail() -> None:
        with undisturbed(), quiet_libraries():
            heard.append(logger.isEnabledFor(logging.CRITICAL))
            raise ValueError("seen")

    with pytest.raises(ValueError, match="seen"):
        fail()
    assert heard == [False]
    assert logger.isEnabledFor(logging.ERROR)


def test_what_this_thread_prints_is_dropped_and_others_are_heard(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with quiet_libraries(), ThreadPoolExecutor(1) as pool:
        sys.stdout.write("dropped\n")
        sys.stderr.write("dropped\n")
        pool.submit(sys.stdout.write, "heard\n").result()
    sys.stderr.write("heard again\n")
    assert capfd.readouterr() == ("heard\n", "heard again\n")


def test_threads_compile_one_after_another() -> None:
    x = torch.randn(4, 3, 32)

    def work(seed: int) -> float:
        torch.manual_seed(0)
        net = GatedBlock().eval()
        compiled = awqc.compile(net, (x[:2],), bits=8, seed=seed, **CHEAP)
        with torch.no_grad():
            return float((compiled.graph_module(x) - net(x)).norm() / net(x).norm())

    before = state()
    with ThreadPoolExecutor(3) as pool:
        losses = list(pool.map(work, range(3)))
    assert max(losses) < 0.02  # 8-bit noise
    assert [key for key in changed(before, state()) if key not in ("torch", "random")] == []


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning, PendingDeprecationWarning])
def test_a_deprecation_in_another_package_stops_no_compile(category: type[Warning]) -> None:
    class Dated(GatedBlock):
        def forward(self, x: Tensor) -> Tensor:
            warnings.warn("call it otherwise", category, stacklevel=1)
            return super().forward(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = awqc.compile(Dated(), (torch.randn(2, 3, 32),), **CHEAP)
    assert compiled.report["verify"]


@pytest.mark.parametrize("what", ["module", "folder"])
def test_the_command_line_works_where_all_warnings_are_errors(what: str, tmp_path: Path) -> None:
    if what == "module":
        model = tmp_path / "model.pt"
        torch.save(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)), model)
        more = ["--input", "input=float32[batch,32]"]
    else:
        model = tmp_path / "llama"
        more = ["--num-samples", "4", "--seq-len", "8", "--formats", "onnx"]
        save_decoder("llama", model, num_hidden_layers=1)
        save_tokenizer(model)
    command = [sys.executable, "-W", "error", "-m", "awqc", "compile", str(model), *more,
               "--effort", "fast", "--provider", "cpu", "-o", str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


CUDNN: Any = torch.backends.cudnn  # a module of another type


def precisions() -> list[object]:
    """What a GPU makes of float32 products, as far as torch says it."""
    kinds = (CUDNN.conv, CUDNN.rnn, torch.backends.cuda.matmul)
    found: list[object] = [kind.fp32_precision for kind in kinds]
    for ask in (lambda: CUDNN.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(ask())
        except RuntimeError:
            found.append("kinds differ")
    return found


@pytest.mark.parametrize("own", ["default", "convolutions", "products"])
def test_a_gpu_computes_whole_float32_inside_and_as_before_behind(own: str) -> None:
    conv, matmul = CUDNN.conv.fp32_precision, torch.get_float32_matmul_precision()
    try:
        if own == "convolutions":
            CUDNN.conv.fp32_precision = "ieee"
        elif own == "products":
            torch.set_float32_matmul_precision("high")
        before = precisions()
        with undisturbed():
            assert "tf32" not in precisions()
            assert not CUDNN.allow_tf32
        assert precisions() == before
    finally:
        CUDNN.conv.fp32_precision = conv
        torch.set_float32_matmul_precision(matmul)
