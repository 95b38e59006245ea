"""Open what was published as its user would, in a process that holds nothing of awqc.

`awqc.verify.fresh` starts this file by its path. Nothing of awqc is imported: models run in torch
or onnxruntime alone, checkpoints are read by the published rule of their format. A job is a line
of JSON on standard input, the answer one on standard output. The process ends with its input, or
after as many seconds without a job as its argument says.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

AT_ONCE = 2**22
"""Values of a weight that are looked at together."""
Parts = tuple[int, int, Iterator[tuple[int, Any]]]
"""Rows and columns of a weight, and its columns a few at a time: the first's number, and they."""
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""The nibble of an int32 in which AutoAWQ holds the first, second, … of eight channels."""


def run_torch(job: dict[str, Any]) -> None:
    """Run an archive on batches of tensors, in the order of its arguments.

    Beside the outputs stand the indices that each top-k took, in the order of the calls.
    """
    import torch
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    class Choosing(TorchDispatchMode):
        """Keeps what is chosen."""

        supports_higher_order_operators = True

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # torch does not type it
            self.choices: list[Any] = []

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.topk.default:
                self.choices.append(made[1].clone())
            return made

    program = torch.export.load(job["path"])
    call, spec = pytree.tree_flatten(program.example_inputs)
    module = program.module()
    made = []
    for batch in torch.load(job["inputs"]):
        given = iter(batch)
        leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in call]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        with torch.no_grad(), Choosing() as chosen:
            found = pytree.tree_leaves(module(*args, **kwargs))
        outputs = [leaf.clone() for leaf in found if isinstance(leaf, torch.Tensor)]
        made.append({"outputs": outputs, "choices": chosen.choices})
    torch.save(made, job["outputs"])


def run_onnx(job: dict[str, Any]) -> None:
    """Run an ONNX model on arrays ``NUMBER.NAME``; outputs are ``NUMBER.POSITION``."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for key, value in job["config"].items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(job["path"], options, providers=["CPUExecutionProvider"])
    hand_back()
    with np.load(job["inputs"]) as arrays, zipfile.ZipFile(job["outputs"], "w") as made:
        for number in range(job["batches"]):
            feeds = {value.name: arrays[f"{number}.{value.name}"] for value in session.get_inputs()}
            for position, array in enumerate(session.run(None, feeds)):
                with made.open(f"{number}.{position}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(array))


def hand_back() -> None:
    """Hand free memory back to the system, where glibc keeps it."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def read_checkpoint(job: dict[str, Any]) -> None:
    """Dequantize each weight and write its products with the vectors of `directions`."""
    import numpy as np

    folder = Path(job["path"])
    quantization = json.loads((folder / "config.json").read_text("utf-8"))["quantization_config"]
    tensors: dict[str, Any] = {}  # each is read when it is called
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= read_safetensors(file)
    awq = quantization["quant_method"] == "awq"
    leaf = ".qweight" if awq else ".weight_packed"
    made: dict[str, Any] = {}
    for name in [name.removesuffix(leaf) for name in tensors if name.endswith(leaf)]:
        keys = [key for key in _LEAVES if f"{name}.{key}" in tensors]
        own = {key: tensors.pop(f"{name}.{key}")() for key in keys}
        parts = awq_parts(own, quantization) if awq else packed_parts(own, quantization, name)
        made[f"{name}.left"], made[f"{name}.right"] = products(parts)
    bad = [name for name, read in tensors.items() if not np.isfinite(read()).all()]
    if bad:
        raise ValueError(f"{bad[0]} holds values that are not finite")
    np.savez(job["outputs"], **made)


def read_gguf(job: dict[str, Any]) -> None:
    """The same of each quantized tensor of a GGUF file, read by the package ``gguf``."""
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize

    made: dict[str, Any] = {}
    for tensor in GGUFReader(job["path"]).tensors:
        step = max(1, AT_ONCE // int(tensor.shape[0]))
        rows = len(tensor.data) if len(tensor.shape) > 1 else 1
        whole = tensor.data.reshape(rows, -1)
        left, right = directions(rows, int(tensor.n_elements) // rows)
        before, behind = np.zeros(len(right)), np.zeros(rows)
        for start in range(0, rows, step):
            some = slice(start, start + step)
            values = dequantize(whole[some], tensor.tensor_type).astype(np.float64)
            before += left[some] @ values
            behind[some] = values @ right
        if not np.isfinite(behind).all():
            raise ValueError(f"{tensor.name} holds values that are not finite")
        if tensor.tensor_type.name not in ("F32", "F16", "BF16"):
            made |= {f"{tensor.name}.left": before, f"{tensor.name}.right": behind}
    np.savez(job["outputs"], **made)


def run_gguf(job: dict[str, Any]) -> None:
    """Run a GGUF file in transformers, which undoes its layout by tables of its own.

    Writes nothing where transformers has no table for the architecture or the type of model.
    """
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    path = Path(job["path"])
    architecture = GGUFReader(path).fields["general.architecture"].contents()
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        return
    local = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(path.parent, **local)  # it lies beside the file
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, config=config, gguf_file=path.name, dtype=torch.float32, **local
        )
    except NotImplementedError:  # a type of model that its tables have another name for
        return
    made = []
    for batch in torch.load(job["inputs"]):
        with torch.no_grad():
            made.append(model(**batch, use_cache=False).logits)
    torch.save(made, job["outputs"])


_LEAVES = (
    "qweight", "qzeros", "scales",
    "weight_packed", "weight_scale", "weight_zero_point", "weight_shape",
)  # fmt: skip


def products(parts: Parts) -> tuple[Any, Any]:
    """``left @ W`` and ``W @ right``, of a weight whose columns come a few at a time."""
    import numpy as np

    rows, columns, pieces = parts
    left, right = directions(rows, columns)
    before, behind = np.zeros(columns), np.zeros(rows)
    for start, piece in pieces:
        stop = start + piece.shape[1]
        before[start:stop] = left @ piece
        behind += piece @ right[start:stop]
    return before, behind


def directions(rows: int, columns: int) -> tuple[Any, Any]:
    """Vectors whose products with a weight change wherever it changes."""
    import numpy as np

    generator = np.random.default_rng(0)
    return generator.standard_normal(rows), generator.standard_normal(columns)


def awq_parts(own: dict[str, Any], quantization: dict[str, Any]) -> Parts:
    """``W[n, k] = (qweight[k, n] - qzeros[k // group, n]) * scales[k // group, n]``."""
    import numpy as np

    group, columns = quantization["group_size"], len(own["qweight"])

    def unpack(words: Any) -> Any:
        lanes = [(words.view(np.uint32) >> np.uint32(4 * place)) & 15 for place in AWQ_PLACES]
        return np.stack(lanes, axis=-1).reshape(len(words), -1).astype(np.float64)

    def pieces() -> Iterator[tuple[int, Any]]:
        for start in range(0, columns, step_of(group, own["scales"].shape[1])):
            stop = min(start + step_of(group, own["scales"].shape[1]), columns)
            some = slice(start // group, -(-stop // group))
            zeros, scales = (
                np.repeat(part, group, axis=0)[: stop - start]
                for part in (unpack(own["qzeros"][some]), own["scales"][some])
            )
            yield start, ((unpack(own["qweight"][start:stop]) - zeros) * scales).T

    return own["scales"].shape[1], columns, pieces()


def packed_parts(own: dict[str, Any], quantization: dict[str, Any], name: str) -> Parts:
    """``W[n, k] = (code - zero) * scale``; zero is the middle of the codes where none is stored."""
    import numpy as np

    groups = quantization["config_groups"].values()
    weights = next(
        group["weights"] for group in groups
        if "Linear" in group["targets"] or name in group["targets"]
    )  # fmt: skip
    bits, group = weights["num_bits"], weights["group_size"]
    rows, columns = (int(size) for size in own["weight_shape"])
    lanes = 32 // bits

    def unpack(words: Any, count: int) -> Any:
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        codes = (np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts) & (2**bits - 1)
        return codes.reshape(len(words), -1)[:, :count].astype(np.float64)

    def pieces() -> Iterator[tuple[int, Any]]:
        for start in range(0, columns, step_of(group, rows)):
            stop = min(start + step_of(group, rows), columns)
            some = slice(start // group, -(-stop // group))
            codes = unpack(
                own["weight_packed"][:, start // lanes : -(-stop // lanes)], stop - start
            )
            zeros: Any = 2.0 ** (bits - 1)
            if "weight_zero_point" in own:
                zeros = unpack(own["weight_zero_point"][:, some].T, rows).T
                zeros = np.repeat(zeros, group, axis=1)[:, : stop - start]
            scale = np.repeat(own["weight_scale"][:, some], group, axis=1)[:, : stop - start]
            yield start, (codes - zeros) * scale

    return rows, columns, pieces()


def step_of(group: int, rows: int) -> int:
    """Columns of a weight that are looked at together: whole groups."""
    return max(1, AT_ONCE // (rows * group)) * group


def read_safetensors(file: Path) -> dict[str, Any]:
    """What reads each array of a file: the size of a header, the header in JSON, the bytes."""
    import numpy as np

    content = np.memmap(file, np.uint8, "r")
    size = int(content[:8].view(np.uint64)[0])
    header = json.loads(content[8 : 8 + size].tobytes())

    def read(entry: dict[str, Any]) -> Any:
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            array = (content[start:end].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            array = content[start:end].view(_DTYPES[entry["dtype"]])
        return array.reshape(entry["shape"])

    return {name: partial(read, header[name]) for name in header if name != "__metadata__"}


_DTYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U8": "u1", "BOOL": "?",
}  # fmt: skip
JOBS = {
    "torch": run_torch, "onnx": run_onnx, "checkpoint": read_checkpoint, "gguf": read_gguf,
    "gguf-model": run_gguf,
}  # fmt: skip


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job; whatever goes wrong is the answer."""
    try:
        for module in job.get("imports", ()):
            __import__(module)
        if "kind" in job:
            JOBS[job["kind"]](job)
            hand_back()
    except Exception as error:  # noqa: BLE001 - the file may be damaged in any way
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {"error": f"{type(error).__name__}: {(lines or ['no reason given'])[0]}"[:1000]}
    foreign = sorted(name for name in sys.modules if name.partition(".")[0] == "awqc")
    return {"error": f"awqc was imported ({foreign[0]})"} if foreign else {}


def main() -> None:
    """Answer jobs until the input ends."""
    idle = float(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started this
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    while True:
        clock = threading.Timer(idle, os._exit, [0])
        clock.daemon = True
        clock.start()
        line = sys.stdin.readline()
        clock.cancel()
        if not line:
            return
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
