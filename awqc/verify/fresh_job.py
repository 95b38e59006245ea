"""Jobs for the process that opens what was published (`awqc.verify.fresh_child`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from awqc.errors import VerificationError
from awqc.verify.fresh import FRESH


class DoesNotRunError(VerificationError):
    """A file does not open, or does not run; ``reason``: what was said there."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


def fresh_job(kind: str, file: Path, scratch: Path, suffix: str) -> dict[str, Any]:
    """A job of ``kind`` for ``file``; inputs and outputs lie in ``scratch``."""
    return {
        "kind": kind,
        "path": str(file.resolve()),
        "inputs": str(scratch / f"inputs.{suffix}"),
        "outputs": str(scratch / f"outputs.{suffix}"),
    }


def ask(job: dict[str, Any], name: str, shown: str) -> None:
    """Have ``job`` done.

    Raises:
        DoesNotRunError: it failed; names the model ``name`` and what is ``shown`` of the file.
    """
    error = FRESH.ask(job)
    if error is not None:
        raise DoesNotRunError(
            f"{name}: {shown} does not open or run by itself in another process: {error}; if its "
            "files were changed since they were written, compile again; else please report it",
            error,
        )
