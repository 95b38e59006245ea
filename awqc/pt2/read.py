"""Read a whole archive, or its weights alone.

Torch's deserializer imports its compiler, for seconds; it is imported when an archive is read.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch._export.serde import schema
from torch.export import ExportedProgram

from awqc.pt2.example import read_example
from awqc.pt2.fields import read_record
from awqc.pt2.members import MODEL, open_members
from awqc.pt2.tensors import read_tensors


def read_program(path: Path) -> ExportedProgram:
    """The program in the archive at ``path``; no code of the file runs.

    Raises:
        NotAllowedError: the archive holds something that is not on the list.
        DamagedError: it is not as torch writes it.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    from torch._export.serde.serialize import ExportedProgramDeserializer

    with open_members(path) as members:
        record = read_record(schema.ExportedProgram, members.read(MODEL), MODEL)
        example = read_example(members)
        state = read_tensors(members, "weights")
        constants = read_tensors(members, "constants")
    return ExportedProgramDeserializer().deserialize(record, state, constants, example)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers in the archive at ``path``, by name; nothing else is read.

    Raises:
        NotAllowedError, DamagedError, OSError, zipfile.BadZipFile: as `read_program`.
    """
    with open_members(path) as members:
        return read_tensors(members, "weights")
