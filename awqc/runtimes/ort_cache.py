"""A key/value cache in buffers that a model in onnxruntime fills in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from awqc.runtimes.base import ArraySpec

Array = np.ndarray[Any, Any]


class SharedCache:
    """One buffer for each past and the present that comes of it, bound once for all steps.

    Memory that no token came to is not taken up: the system gives pages as they are written.
    """

    def __init__(
        self,
        session: Any,
        inputs: Sequence[ArraySpec],
        outputs: Sequence[str],
        states: Sequence[tuple[str, str]],
        tokens: int,
        batch: int,
        provider: str,
    ) -> None:
        """Make buffers for ``batch`` rows of ``tokens`` in which ``session`` keeps its states.

        They lie where ``provider``, ``cpu`` or ``cuda``, computes.
        """
        self._session = session
        self._binding = session.io_binding()
        specs = {spec.name: spec for spec in inputs}
        carried = {output for _, output in states}
        self._made = [name for name in outputs if name not in carried]
        self._known = set(specs)
        for name in self._made:  # these come first among what the binding gives
            self._binding.bind_output(name, "cpu")
        for name, output in states:
            _, heads, _, width = specs[name].shape
            empty = np.zeros((batch, int(heads), tokens, int(width)), specs[name].dtype)
            buffer = ort.OrtValue.ortvalue_from_numpy(empty, provider)
            self._binding.bind_ortvalue_input(name, buffer)
            self._binding.bind_ortvalue_output(output, buffer)

    def step(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Other outputs than the states, by name, of what the model takes of ``feeds``."""
        for name, array in feeds.items():
            if name in self._known:
                self._binding.bind_cpu_input(name, array)
        for name in self._made:
            self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        values = self._binding.get_outputs_as_ortvaluevector()
        return {name: values[place].numpy() for place, name in enumerate(self._made)}
