"""A model in onnxruntime, fed with NumPy arrays or onnxruntime's own values, without torch.

Carried states, such as a key/value cache, stay where the model runs: they go out of one `step`
and into the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from awqc.kv_cache import PLACES, ROW_BY_ROW, SHARED_CACHE, empty_shape, state_pairs
from awqc.runtimes.base import ArraySpec, failing_as
from awqc.runtimes.counted_places import check_places
from awqc.runtimes.ort_cache import SharedCache
from awqc.runtimes.row_by_row import parts_of
from awqc.runtimes.session_file import ORT_ERRORS, open_session
from awqc.runtimes.session_settings import Settings

Array = np.ndarray[Any, Any]
DTYPES = {"float": "float32", "double": "float64"}
"""Types whose names in onnxruntime and in NumPy differ."""


class OrtModel:
    """A model that is loaded.

    Attributes:
        provider: ``cpu`` or ``cuda``.
        inputs: what it takes.
        outputs: names of the outputs, in order.
        states: pairs (input, output) of a key/value cache, by the ecosystem's names.
        told: metadata of the model.
        shares_cache: whether a past and the present that comes of it may be one buffer.
    """

    def __init__(
        self,
        path: Path,
        provider: str = "cpu",
        settings: Settings | None = None,
        *,
        level: str | None = None,
        threads: int = 0,
        fixed: Mapping[str, int] | None = None,
        shown: Sequence[str] = (),
    ) -> None:
        """Load ``path``; the arguments are those of `awqc.runtimes.session_file.open_session`.

        Raises:
            UsageError: CUDA was asked for, and the session would run on the CPU.
            VerificationError: onnxruntime does not load the model.
        """
        self.provider = provider
        with failing_as(f"{path.name}: onnxruntime does not load it", *ORT_ERRORS):
            self._session = open_session(
                path, provider, settings, level=level, threads=threads, fixed=fixed, shown=shown
            )
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(value.name for value in self._session.get_outputs())
        self.states = state_pairs((spec.name for spec in self.inputs), self.outputs)
        self.told: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.shares_cache = self.told.get(SHARED_CACHE) == "1"
        self._counts_places = self.told.get(PLACES) == "1"
        self._row_by_row = self.told.get(ROW_BY_ROW) == "1"

    def run(self, feeds: Mapping[str, Array], only: Sequence[str] | None = None) -> list[Array]:
        """Outputs in order, of ``only`` some; of ``feeds`` what the model takes.

        Rows of several tokens behind a past are run one by one where kernels take no more.

        Raises:
            UsageError: positions are given, and are not those that the model counts itself.
            VerificationError: onnxruntime cannot run it.
        """
        if self._counts_places:
            check_places(feeds)
        known = {spec.name for spec in self.inputs}
        taken = {name: array for name, array in feeds.items() if name in known}
        if self._row_by_row and len(parts := parts_of(taken)) > 1:
            made = [self.run(part, only) for part in parts]
            return [np.concatenate(rows) for rows in zip(*made, strict=True)]
        with failing_as("onnxruntime cannot run the model", *ORT_ERRORS, ValueError):
            values = self._session.run(list(only or self.outputs), taken)
        values.reverse()
        return [np.array(values.pop()) for _ in range(len(values))]  # one at a time is there twice

    def hold(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """``feeds`` as values that `step` takes; what the model has no input for is left out."""
        known = {spec.name for spec in self.inputs}
        make = ort.OrtValue.ortvalue_from_numpy
        return {name: make(array) for name, array in feeds.items() if name in known}

    def empty_states(self, batch: int = 1) -> dict[str, Any]:
        """A cache of no tokens, as values that `step` takes."""
        specs = {spec.name: spec for spec in self.inputs}
        shapes = {name: empty_shape(specs[name].shape, batch) for name, _ in self.states}
        return self.hold({n: np.zeros(shape, specs[n].dtype) for n, shape in shapes.items()})

    def shared_cache(self, tokens: int, batch: int = 1) -> SharedCache:
        """A cache with room for ``tokens``, which stays where it is; see `shares_cache`."""
        return SharedCache(
            self._session, self.inputs, self.outputs, self.states, tokens, batch, self.provider
        )

    def step(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs by name, on the CPU, and the states by the inputs that take them next."""
        carried = {output: name for name, output in self.states}
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, self.provider if name in carried else "cpu")
        self._session.run_with_iobinding(binding)
        made = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        states = {name: made.pop(output) for output, name in carried.items()}
        return made, states


def _spec(value: Any) -> ArraySpec:
    """An input of a session; ``tensor(float)`` is float32."""
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return ArraySpec(value.name, DTYPES.get(kind, kind), shape)
