"""Checkpoints by the published rules, a few columns at a time, against what was quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from awqc.export.awq import Awq
from awqc.export.compressed_tensors import CompressedTensors
from awqc.export.serving import Held, ServingFormat
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.quantizing import quantize
from awqc.verify import fresh_child

ROWS, COLUMNS = 24, 160


@pytest.mark.parametrize("at_once", [1, 64 * ROWS, 2**22], ids="{} values".format)
@pytest.mark.parametrize("symmetric", [False, True], ids=["zero points", "symmetric"])
@pytest.mark.parametrize("form", [Awq(), CompressedTensors()], ids=lambda form: str(form.name))
def test_products_are_those_of_the_weight(
    form: ServingFormat, symmetric: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_child, "AT_ONCE", at_once)
    torch.manual_seed(0)
    weight = quantize(torch.randn(ROWS, COLUMNS), ROWS, IntGrid(4, 32, symmetric))
    weight = weight.with_tensors({"scale": weight.tensors["scale"].half().float()})
    held = Held(weight, IntGrid(4, 32, symmetric))
    own: dict[str, Any] = {
        name: tensor.make().numpy() for name, tensor in form.tensors(held).items()
    }
    config = form.config({"a": held.form}, 32, [])
    if form.name == "awq":
        parts = fresh_child.awq_parts(own, config)
    else:
        parts = fresh_child.packed_parts(own, config, "a")
    wanted = weight.dequantize().double().numpy()
    left, right = fresh_child.directions(ROWS, COLUMNS)
    found = fresh_child.products(parts)
    np.testing.assert_allclose(found[0], left @ wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[1], wanted @ right, rtol=1e-6, atol=1e-6)
