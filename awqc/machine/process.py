"""What a process shares: a compile puts all of it back, and never speaks through it.

Warnings, loggers, the environment, random states, torch's defaults and thread counts belong to
the caller. `undisturbed` wraps each public entry point; `quiet_libraries` keeps what other
packages log and warn to themselves for as long as a block runs.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

LIBRARIES = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "transformers")
"""Packages whose loggers are silenced."""

_SILENT = logging.CRITICAL + 1

DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)

_lock = threading.RLock()
"""Held while awqc works: torch.export, warnings and loggers are one for all threads."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put back what the process shares when the block ends, also by an error.

    Deprecations of other packages are ignored inside, whatever filters the caller has: they tell
    awqc's developers something, never its users. Derivatives can be taken inside, also where the
    caller has turned them off; and a GPU computes in float32 where it says so. One thread at a
    time is let in; the others wait.
    """
    with _lock, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for category in DEPRECATIONS:
            warnings.simplefilter("ignore", category)
        for restore in (*_python_state(), *_torch_state()):
            stack.callback(restore)
        if "torch" in sys.modules:
            stack.enter_context(_derivatives())
            stack.enter_context(_whole_float32())
        yield


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what other packages log, warn, print and draw off the terminal; what matters is raised.

    What other threads print in the meantime is printed.
    """
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(cast(TextIO, _Muffled(sys.stdout))))
        stack.enter_context(redirect_stderr(cast(TextIO, _Muffled(sys.stderr))))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for logger in _library_loggers():
            stack.callback(logger.setLevel, logger.level)
            stack.callback(setattr, logger, "handlers", logger.handlers)
            logger.setLevel(_SILENT)
            # Torch makes long records, of stacks, wherever a handler could take them.
            logger.handlers = []
        if "transformers" in sys.modules:
            from transformers.utils import logging as hf_logging

            if hf_logging.is_progress_bar_enabled():
                stack.callback(hf_logging.enable_progress_bar)
                hf_logging.disable_progress_bar()
        yield


class _Muffled:
    """``stream`` for all threads but the one that made this."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._silent = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Write ``text``, or drop it; returns its length."""
        return len(text) if threading.get_ident() == self._silent else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _library_loggers() -> list[logging.Logger]:
    """Loggers of other packages that have a level of their own, and the packages' first ones."""
    known = dict(logging.root.manager.loggerDict)
    return [
        logger
        for name, logger in known.items()
        if isinstance(logger, logging.Logger)
        and name.partition(".")[0] in LIBRARIES
        and (logger.level or name in LIBRARIES)
    ]


def _python_state() -> Iterator[Callable[[], Any]]:
    """What puts back the interpreter's own state."""
    environment, path, seed = dict(os.environ), list(sys.path), random.getstate()
    disabled = logging.root.manager.disable
    levels = {logger: logger.level for logger in _library_loggers()}

    def restore_environment() -> None:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    def restore_levels() -> None:
        for logger, level in levels.items():
            logger.setLevel(level)

    yield restore_environment
    yield lambda: sys.path.__setitem__(slice(None), path)
    yield lambda: random.setstate(seed)
    yield lambda: logging.disable(disabled)
    yield restore_levels


def _torch_state() -> Iterator[Callable[[], Any]]:
    """What puts back the state of torch and numpy, as far as they are loaded."""
    if "numpy" in sys.modules:
        import numpy as np

        numbers = np.random.get_state()
        yield lambda: np.random.set_state(numbers)
    if "torch" in sys.modules:
        import torch

        threads, dtype, grad = (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )
        seed = torch.get_rng_state()
        yield lambda: torch.set_num_threads(threads)
        yield lambda: torch.set_default_dtype(dtype)
        yield lambda: torch.set_grad_enabled(grad)
        yield lambda: torch.set_rng_state(seed)


@contextmanager
def _derivatives() -> Iterator[None]:
    """Let torch take derivatives, as in a process that has just started."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Let a GPU multiply float32 values whole; convolutions are in TF32 by default."""
    import torch

    cuda, cudnn = torch.backends.cuda, cast(Any, torch.backends.cudnn)  # a module of another type
    kinds = (cudnn.conv, cudnn.rnn, cuda.matmul)
    before = [kind.fp32_precision for kind in kinds]
    try:
        whole = cudnn.allow_tf32
    except RuntimeError:  # Kinds differ: then no one word says it of all, and none is asked for.
        whole = True
    cudnn.allow_tf32 = False
    cuda.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.allow_tf32 = whole
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
