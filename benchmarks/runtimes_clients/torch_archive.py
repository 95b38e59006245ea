"""Runs a .pt2 archive with torch and nothing of awqc: python torch_archive.py JOB RESULT.

``how`` in the job says by what: ``eager`` as it is loaded; ``aoti`` compiled ahead of time by
AOTInductor; ``executorch`` by ExecuTorch's portable kernels.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from codec import decode, encode
from torch.utils import _pytree as pytree


def eager(exported: Any, folder: Path) -> Callable[..., Any]:
    return exported.module()


def aoti(exported: Any, folder: Path) -> Callable[..., Any]:
    package = torch._inductor.aoti_compile_and_package(
        exported, package_path=str(folder / "model.pt2")
    )
    return torch._inductor.aoti_load_package(package)


def executorch(exported: Any, folder: Path) -> Callable[..., Any]:
    from executorch.exir import to_edge
    from executorch.runtime import Runtime

    (folder / "model.pte").write_bytes(to_edge(exported).to_executorch().buffer)
    method = Runtime.get().load_program(folder / "model.pte").load_method("forward")

    def run(*args: Any, **kwargs: Any) -> Any:
        return method.execute(pytree.tree_leaves((args, kwargs)))

    return run


def main() -> None:
    torch.set_num_threads(1)
    job = json.loads(Path(sys.argv[1]).read_text())
    exported = torch.export.load(job["model"])
    leaves, spec = pytree.tree_flatten(exported.example_inputs)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        run = {"eager": eager, "aoti": aoti, "executorch": executorch}[job["how"]](
            exported, Path(folder)
        )
        runs = []
        for inputs in job["runs"]:
            values = iter(torch.from_numpy(decode(value)) for value in inputs.values())
            args, kwargs = pytree.tree_unflatten(
                [next(values) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec
            )
            found = pytree.tree_leaves(run(*args, **kwargs))
            named = zip(job["outputs"], found, strict=True)
            runs.append({name: encode(value.numpy()) for name, value in named})
    assert "awqc" not in sys.modules
    Path(sys.argv[2]).write_text(json.dumps({"runs": runs}))


main()
