"""``awqc compile --partial``, where the whole model cannot be captured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from awqc.capture.module import ExampleInputs, split_example
from awqc.commands.options import ModelSource
from awqc.data.array_files import read_arrays
from awqc.errors import UsageError
from awqc.machine.terminal import console, echo
from awqc.partial import compile_partial
from awqc.sources.source import load_source


def compile_parts(
    source: ModelSource, target: Path, calib: Path | None, *, as_json: bool, **options: Any
) -> None:
    """Compile the submodules of ``source`` that can be captured, into ``target``."""
    arrays = None if calib is None else read_arrays(calib)
    loaded = load_source(
        source.model,
        inputs=source.inputs,
        calib=arrays,
        trust_pickle=source.trust_pickle,
        seed=options["seed"],
    )
    batches = [] if arrays is None else _batches(arrays, loaded.example, str(calib))
    result = compile_partial(loaded.module, loaded.example, batches, output_dir=target, **options)
    if as_json:
        echo(json.dumps(result.report, indent=2, allow_nan=False))
        return
    out = console()
    for path, compiled in result.blocks.items():
        out.print(f"compiled {path}: {len(compiled.report['layers'])} weights")
    for path, reason in result.refused.items():
        out.print(f"left in float: {path}: {reason}")
    out.print(f"wrote {target}: model.pt with the compiled blocks in place, and each as ONNX")


def _batches(
    arrays: dict[str, Tensor], example: ExampleInputs, where: str
) -> list[dict[str, Tensor]]:
    """The samples of ``arrays``, as many at a time as the example has."""
    given = split_example(example)[1]
    if set(arrays) != set(given):
        raise UsageError(
            f"{where}: holds arrays {sorted(arrays)}; --partial needs one for each input by "
            f"name: {sorted(given) or 'give --input name=dtype[sizes]'}"
        )
    first = next(name for name, value in given.items() if isinstance(value, Tensor))
    size, count = given[first].shape[0], len(arrays[first])
    return [
        {name: array[start : start + size] for name, array in arrays.items()}
        for start in range(0, count - size + 1, size)
    ]
