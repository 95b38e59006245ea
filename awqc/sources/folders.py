"""A Hugging Face folder before it is loaded: whether it can be, and its adapter merged into it."""

from __future__ import annotations

from pathlib import Path

from awqc.artifacts.manifest import read_manifest
from awqc.errors import UsageError
from awqc.sources.recognised import SOURCES


def with_adapter(
    path: Path, adapter: str | Path | None, trust_remote_code: bool
) -> tuple[Path, tuple[str, ...]]:
    """The Hugging Face folder ``path`` with its adapter merged, if it has one; what to tell of it.

    Raises:
        UsageError: the adapter or its base is not here, or they do not belong together.
        CaptureError: a file is damaged.
    """
    if adapter is None and not (path / "adapter_config.json").is_file():
        return path, ()
    _check_transformers(path)
    from awqc.huggingface.merging import find_pair, merged_folder

    pair = find_pair(path, adapter, trust_remote_code=trust_remote_code)
    if pair is None:
        return path, ()
    return merged_folder(pair, trust_remote_code=trust_remote_code), pair.notes


def check_folder(path: Path) -> None:
    """Refuse a folder that holds no model, or cannot be read for want of a package."""
    from awqc.huggingface.folder import check_no_adapter
    from awqc.huggingface.sentence_files import check_begins_with_model

    if path.is_dir() and read_manifest(path) is not None:
        raise UsageError(
            f"{path}: is what awqc compile wrote, and its weights are quantized already; awqc "
            "verify, eval, run, generate and bench use it. Give the model that it was made of"
        )
    if path.is_dir() and not (path / "config.json").is_file() and not any(path.glob("*.gguf")):
        check_no_adapter(path)
        check_begins_with_model(path)
        raise UsageError(
            f"{path}: the folder has no config.json, so it is no Hugging Face model. "
            f"MODEL is {SOURCES}"
        )
    _check_transformers(path)


def _check_transformers(path: Path) -> None:
    """Refuse a folder that cannot be read for want of a package."""
    try:
        import awqc.huggingface.capture  # noqa: F401 - whether what it needs is installed
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{path}: Hugging Face models need the package {error.name!r}; "
            "install it with: pip install 'awqc[hf]'"
        ) from error
