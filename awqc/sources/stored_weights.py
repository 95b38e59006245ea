"""Weights in a file of their own, for a model that the user's code makes.

A safetensors file, a state dict, or a training checkpoint that holds one beside other things, such
as those of Lightning.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from awqc.capture.pickled import TRUST, importable
from awqc.errors import CaptureError, UsageError, spelled
from awqc.machine.given_paths import given_path
from awqc.machine.process import quiet_libraries

ARGUMENTS = "hyper_parameters"
"""Under which a checkpoint of Lightning keeps what its class was made with."""
NAMED = 4
"""Tensors that a message names."""
_KINDS = "a .safetensors file, a state dict, or a checkpoint that holds one"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class StoredWeights:
    """What a file of weights holds.

    Attributes:
        path: the file.
        states: state dicts in it by their keys; a file that is one has it under ``""``.
        arguments: what the class of the model was made with, as far as the file says.
    """

    path: Path
    states: Mapping[str, State]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, given: str | Path, *, trust: bool) -> StoredWeights:
        """Those of a file, which stay in it until they are needed.

        Without ``trust`` nothing but tensors and plain values is read.

        Raises:
            UsageError: there is no such file, or it wants more in and is not trusted.
            CaptureError: it is damaged, or holds no weights.
        """
        path = given_path(given, spelled("weights"))
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file of weights; give {_KINDS}")
        with path.open("rb") as file:
            head = file.read(16)
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
            try:
                return cls(path, {"": load_file(path)})
            except (safetensors.SafetensorError, OSError, ValueError) as error:
                raise CaptureError(
                    f"{path}: the safetensors file is damaged: {error}; fetch it again"
                ) from error
        if not head.startswith((b"\x80", b"PK\x03\x04")):
            raise UsageError(f"{path}: holds no weights that awqc knows; give {_KINDS}")
        content = _unpickled(path, trust)
        if isinstance(content, nn.Module):
            raise UsageError(f"{path}: is a whole module; give it as MODEL, without a factory")
        if not isinstance(content, Mapping):
            raise UsageError(f"{path}: holds a {type(content).__name__}; give {_KINDS}")
        states = dict(_states(content))
        if not states:
            keys = ", ".join(repr(key) for key in list(content)[:NAMED])
            raise UsageError(
                f"{path}: none of its entries ({keys}) is a state dict, a dict of tensors by name"
            )
        return cls(path, states, _named(content.get(ARGUMENTS)))

    def load_into(self, module: nn.Module) -> list[str]:
        """Give ``module`` these weights; what the user should know of it.

        Of several state dicts that one is taken that has all that ``module`` needs; where names
        begin with what wraps the module (``model.``, ``module.``), what lies under it.

        Raises:
            UsageError: tensors are missing, too many, or of other sizes.
            CaptureError: the module's own code for loading fails.
        """
        needed = set(module.state_dict())
        entry, prefix = self._fitting(needed)
        state = self.states[entry]
        own = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        where = f"{self.path}" + (f", entry {entry!r}" if entry else "")
        kind = type(module).__name__
        try:
            with quiet_libraries():
                found = module.load_state_dict(own, strict=False)
        except RuntimeError as error:
            raise UsageError(
                f"{where}: does not fit into {kind}: {_reasons(error)}; these are the weights of "
                "another model, or of one that was made with other arguments"
            ) from error
        except Exception as error:
            raise CaptureError(
                f"{where}: {kind}.load_state_dict failed: {type(error).__name__}: {error}"
            ) from error
        _check_names(where, kind, _lacking(module, found.missing_keys), found.unexpected_keys)
        return self._notes(state, entry, prefix)

    def _fitting(self, needed: set[str]) -> tuple[str, str]:
        """The entry and the prefix under which there is most of what is ``needed``.

        Raises:
            UsageError: several entries have all of it.
        """
        ways = {
            (entry, prefix): len(needed & _under(state, prefix))
            for entry, state in self.states.items()
            for prefix in _prefixes(state, needed)
        }
        most = max(ways.values())
        best = [way for way, count in ways.items() if count == most]
        entries = sorted({entry for entry, _ in best})
        if len(entries) > 1 and most:
            listed = " and ".join(repr(entry) for entry in entries)
            raise UsageError(
                f"{self.path}: its entries {listed} are state dicts that fit equally; save the one "
                f"that is meant: torch.save(torch.load({self.path.name!r})[{entries[0]!r}], "
                "'weights.pt')"
            )
        return min(best, key=lambda way: len(way[1]))

    def _notes(self, state: State, entry: str, prefix: str) -> list[str]:
        others = [name for name in state if not name.startswith(prefix)]
        if not others:
            return []
        return [
            f"{self.path.name}: the weights under {prefix!r} are used; {len(others)} others are "
            f"not ({_some(others)})"
        ]


def _unpickled(path: Path, trust: bool) -> Any:
    mapped = zipfile.is_zipfile(path)
    try:
        if not trust:
            with quiet_libraries():
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        with quiet_libraries(), importable(Path.cwd()):
            return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped)
    except Exception as error:
        wanted = _wanted(path, error) if not trust else []
        if wanted:
            raise UsageError(
                f"{path}: wants {', '.join(wanted)} in, which are no tensors and no plain values; "
                "unpickling them means running code that the file chooses. Save the weights "
                "alone where the file comes from (torch.save(checkpoint['state_dict'], "
                f"'weights.pt')), or, if you trust the file, pass {TRUST}"
            ) from error
        lines = str(error).strip().splitlines()
        raise CaptureError(
            f"{path}: could not be loaded: {type(error).__name__}: {lines[0] if lines else ''}. "
            f"The file is damaged, cut short, or none of weights; give {_KINDS}"
        ) from error


def _wanted(path: Path, error: Exception) -> list[str]:
    """Names that the pickle wants and that are no tensors and plain values."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - the old format, or a damaged file
        found = re.findall(r"GLOBAL (\S+)", str(error))
    return sorted(found)


def _named(value: object) -> Mapping[str, Any]:
    """``value``, where it is a mapping of names; else an empty one."""
    named = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    return value if named else {}  # type: ignore[return-value]  # told by the line above


def _states(content: Mapping[Any, Any]) -> Iterator[tuple[str, State]]:
    """State dicts: ``content`` itself, or entries of it."""
    if _is_state(content):
        yield "", content
        return
    for key, value in content.items():
        if isinstance(key, str) and _is_state(value):
            yield key, value


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(_named(value))
        and all(isinstance(each, Tensor) for each in value.values())
    )


def _prefixes(state: State, needed: set[str]) -> set[str]:
    """What names in ``state`` begin with that end as one of those ``needed`` does."""
    first = min(needed, default="")
    ends = f".{first}"
    return {"", *(name.removesuffix(first) for name in state if name.endswith(ends))}


def _under(state: State, prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in state if name.startswith(prefix)}


def _lacking(module: nn.Module, missing: list[str]) -> list[str]:
    """Of ``missing``, what is no other name of a tensor that is there."""
    state = module.state_dict(keep_vars=True)
    there = {id(value) for name, value in state.items() if name not in set(missing)}
    return [name for name in missing if name not in state or id(state[name]) not in there]


def _check_names(where: str, kind: str, missing: list[str], unexpected: list[str]) -> None:
    if missing:
        raise UsageError(
            f"{where}: {len(missing)} tensors of {kind} are missing ({_some(missing)}); they would "
            "stay as the factory made them. Give the weights of this very model"
            + (f"; it holds instead {_some(unexpected)}" if unexpected else "")
        )
    if unexpected:
        raise UsageError(
            f"{where}: {kind} has no place for {len(unexpected)} tensors ({_some(unexpected)}); "
            "let the factory make the model that these weights were saved from"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return f"{shown}, …" if len(names) > NAMED else shown


def _reasons(error: RuntimeError) -> str:
    """What torch says of the first tensors that do not fit."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines()[1:] if line.strip()]
    return "; ".join(lines[:NAMED]) or str(error)
