"""The file of weights that onnxruntime maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from awqc.export.ort_data import INLINE_BYTES, PAGE, DataFile


def test_what_is_not_kept_leaves_the_file(tmp_path: Path) -> None:
    """Sizes around a page, and one that is moved in several steps."""
    rng = np.random.default_rng(0)
    sizes = (PAGE, 3 * PAGE + 1, INLINE_BYTES + 1, 2**24 + 7, 2 * PAGE - 1, 5)
    arrays = [rng.integers(0, 256, size).astype(np.uint8) for size in sizes]
    path = tmp_path / "model.onnx.data"
    with DataFile(path) as file:
        tensors = [file.tensor(f"t{n}", array) for n, array in enumerate(arrays)]
        again = file.tensor("the same as t1", arrays[1])
        before = path.stat().st_size
        kept = file.keep([again, *tensors[1:]])
        later = file.tensor("later", arrays[0])
    assert path.stat().st_size == -(-before // PAGE) * PAGE  # a page went, and came at the end
    assert kept[0].offset == kept[1].offset == 0
    for tensor, array in zip([*kept, later], [arrays[1], *arrays[1:], arrays[0]], strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert getattr(tensor, "offset", 0) % PAGE == 0
