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

    Memory that no token came to is not taken up: the system gives pages as they are written. A
    state that does not grow has two buffers, which take turns: it is read while the next one is
    written.
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
        self._turns: list[tuple[str, str, list[Any]]] = []
        for name, output in states:
            grows = any(isinstance(size, str) for size in specs[name].shape[1:])
            shape = [batch, *(n if isinstance(n, int) else tokens for n in specs[name].shape[1:])]
            pair = [
                ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, specs[name].dtype), provider)
                for _ in range(1 if grows else 2)
            ]
            self._binding.bind_ortvalue_input(name, pair[0])
            self._binding.bind_ortvalue_output(output, pair[-1])
            if not grows:
                self._turns.append((name, output, pair))

    def step(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Other outputs than the states, by name, of what the model takes of ``feeds``."""
        for name, array in feeds.items():
            if name in self._known:
                self._binding.bind_cpu_input(name, array)
        for name in self._made:
            self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        values = self._binding.get_outputs_as_ortvaluevector()
        for name, output, pair in self._turns:
            pair.reverse()
            self._binding.bind_ortvalue_input(name, pair[0])
            self._binding.bind_ortvalue_output(output, pair[1])
        return {name: values[place].numpy() for place, name in enumerate(self._made)}
