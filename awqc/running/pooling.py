"""One vector of a text, as the files of sentence-transformers say.

``modules.json`` lists what follows the model: how vectors of tokens become one, and what is done
to it. Source: the format of sentence-transformers, versions 2 to 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from awqc.artifacts.json_files import read_objects
from awqc.errors import UsageError, spelled
from awqc.huggingface.sentence_files import (
    MODULES,
    SENTENCE,
    module_config,
    module_folder,
    pooling_modes,
    read_and_written,
)
from awqc.huggingface.task_table import SENTENCES
from awqc.runtimes.ort_model import Array

TINY = 1e-12
MODES: Mapping[str, Callable[[Array], Array]] = {
    "cls": lambda states: states[0],
    "max": lambda states: states.max(axis=0),
    "mean": lambda states: states.mean(axis=0),
    "mean_sqrt_len_tokens": lambda states: states.sum(axis=0) / np.sqrt(len(states)),
    "weightedmean": lambda states: np.average(states, axis=0, weights=np.arange(len(states)) + 1),
    "lasttoken": lambda states: states[-1],
}
"""Of the vectors ``(tokens, width)`` of what is no padding."""


@dataclass(frozen=True)
class Pooling:
    """How a text becomes one vector.

    Attributes:
        modes: names of `MODES`; results are joined.
        normalize: whether the vector is brought to length 1.
    """

    modes: tuple[str, ...]
    normalize: bool = False

    @classmethod
    def read(cls, folder: Path) -> Pooling | None:
        """What the files in ``folder`` say; None where there are none.

        Raises:
            UsageError: they ask for what is not known here.
        """
        path = folder / MODULES
        if not path.is_file():
            return None
        modes: tuple[str, ...] = ()
        normalize = False
        for entry in read_objects(path)[1:]:
            kind = str(entry.get("type")).rpartition(".")[2]
            if kind == "Pooling":
                modes = pooling_modes(module_folder(folder, entry))
            elif kind == "Normalize" and _of_sentence(module_folder(folder, entry)):
                normalize = True
            else:
                raise UsageError(
                    f"{path}: {entry.get('type')} follows the model; pooling and normalisation are "
                    "known here. sentence-transformers runs the folder; compiled with "
                    f"{spelled('task', SENTENCES)} it is a part of the graph"
                )
        return cls(modes, normalize) if modes else None

    def vector(self, states: Array, mask: Array | None) -> Array:
        """One vector of ``states`` ``(1, tokens, width)``, float64; ``mask`` is 0 at padding.

        A mask of other places, such as of samples of audio in place of frames, says nothing.
        """
        rows = states.reshape(-1, states.shape[-1]).astype(np.float64)
        if mask is not None and mask.size == len(rows):
            rows = rows[mask.reshape(-1) != 0]
        if not len(rows):
            rows = np.zeros((1, states.shape[-1]))
        made: Array = np.concatenate([MODES[mode](rows) for mode in self.modes])
        return made / max(float(np.linalg.norm(made)), TINY) if self.normalize else made


def _of_sentence(place: Path) -> bool:
    """Whether the module there reads and writes the one vector of a text."""
    return read_and_written(module_config(place)) == (SENTENCE, SENTENCE)
