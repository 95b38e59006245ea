"""One way in for models: whatever a caller has, as a program or as a module with inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.export import ExportedProgram

from awqc.capture.exported import program_from_exported
from awqc.capture.module import DynamicAxes, ExampleInputs, capture_module
from awqc.capture.taken_over import unwrap
from awqc.errors import UsageError, spelled
from awqc.machine.given_paths import given_path
from awqc.program import Program
from awqc.sources.folders import with_adapter
from awqc.sources.source import Source, choose_inputs, load_program, load_source, refuse_inputs

if TYPE_CHECKING:
    from awqc.huggingface.diffusion import DiffusionFolder
    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.speaking import SpeakingFolder
    from awqc.huggingface.task_table import FolderTask

CONFIG = "config.json"
MODEL_INDEX = "model_index.json"

ModelLike = nn.Module | ExportedProgram | Program | str | Path
"""A module, an exported or captured program, a file or folder, or the name of a factory."""


def open_program(
    model: ModelLike,
    example_inputs: ExampleInputs | None = None,
    *,
    inputs: Sequence[str] = (),
    arrays: Mapping[str, Tensor] | None = None,
    dynamic: DynamicAxes | None = None,
    trust_pickle: bool = False,
    task: str | None = None,
    trust_remote_code: bool = False,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
    seed: int = 0,
) -> Program:
    """Capture ``model``; a program is given back as it is.

    Raises:
        UsageError: it is no model, or its inputs are not known, or given where it has its own.
        CaptureError: it cannot be loaded or captured.
    """
    for name, value in {"weights": weights, "adapter": adapter}.items():
        if value is not None and not isinstance(model, str | Path):
            raise UsageError(f"{spelled(name)} is for a path; load it into the module")
    if isinstance(model, Program):
        refuse_inputs(example_inputs, inputs, dynamic, "a captured program brings its own")
        return model
    if isinstance(model, ExportedProgram):
        refuse_inputs(example_inputs, inputs, dynamic, "an exported program brings its own")
        return program_from_exported(model)
    if isinstance(model, nn.Module):
        source = _given_module(model, example_inputs, inputs, arrays, seed)
        return capture_module(model, source.example, dynamic={**source.axes, **(dynamic or {})})
    _check_path(model)
    return load_program(
        model,
        example=example_inputs,
        inputs=inputs,
        calib=arrays,
        dynamic=dynamic,
        trust_pickle=trust_pickle,
        task=task,
        trust_remote_code=trust_remote_code,
        weights=weights,
        adapter=adapter,
        seed=seed,
    )


def find_several_graphs(
    model: ModelLike, task: str | None, trust_remote_code: bool, adapter: str | Path | None = None
) -> tuple[HFFolder, FolderTask, tuple[str, ...]] | None:
    """The folder that ``model`` is, its task, and what to tell; None of what is one graph.

    Raises:
        UsageError: the folder, or ``task``, is none that could be used.
        CaptureError: transformers does not know the architecture.
    """
    if not isinstance(model, str | Path):
        return None
    found = _find_task(Path(model).expanduser(), task, trust_remote_code, adapter)
    return found if found is not None and found[1].several else None


def _find_task(
    folder: Path, task: str | None, trust_remote_code: bool, adapter: str | Path | None
) -> tuple[HFFolder, FolderTask, tuple[str, ...]] | None:
    """The model in ``folder``, its task, and what to tell; None where there is no such folder."""
    if not folder.is_dir():
        return None
    path, notes = with_adapter(folder, adapter, trust_remote_code)
    if not (path / CONFIG).is_file():
        return None
    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.tasks import find_task

    found = HFFolder.at(path, trust_remote_code=trust_remote_code)
    return found, find_task(found.config(), task, where=str(folder)), notes


def find_run_folder(
    model: object, task: str | None, trust_remote_code: bool, adapter: str | Path | None = None
) -> DiffusionFolder | SpeakingFolder | None:
    """The folder that ``model`` is of what must be run to find its parts; None: something else.

    Raises:
        UsageError: the folder is none that could be used, or diffusers is not installed.
        CaptureError: transformers does not know the architecture.
    """
    if not isinstance(model, str | Path):
        return None
    path = Path(model).expanduser()
    if (path / MODEL_INDEX).is_file():
        from awqc.huggingface.diffusion import DiffusionFolder

        return DiffusionFolder.at(path)
    found = _find_task(path, task, trust_remote_code, adapter)
    if found is None or not found[1].speaks:
        return None
    from awqc.huggingface.speaking import SpeakingFolder

    return SpeakingFolder(*found)


def open_module(
    model: nn.Module | str | Path,
    example_inputs: ExampleInputs | None = None,
    *,
    inputs: Sequence[str] = (),
    arrays: Mapping[str, Tensor] | None = None,
    trust_pickle: bool = False,
    seed: int = 0,
    task: str | None = None,
    trust_remote_code: bool = False,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
) -> Source:
    """The module that ``model`` is or names, with example inputs, before it is captured.

    Raises:
        UsageError: there is no module, or its inputs are not known.
        CaptureError: it cannot be loaded.
    """
    if isinstance(model, nn.Module):
        return _given_module(model, example_inputs, inputs, arrays, seed)
    _check_path(model)
    return load_source(
        model,
        example=example_inputs,
        inputs=inputs,
        calib=arrays,
        trust_pickle=trust_pickle,
        seed=seed,
        task=task,
        trust_remote_code=trust_remote_code,
        weights=weights,
        adapter=adapter,
    )


def _given_module(
    model: nn.Module,
    example_inputs: ExampleInputs | None,
    inputs: Sequence[str],
    arrays: Mapping[str, Tensor] | None,
    seed: int,
) -> Source:
    module = unwrap(model)
    try:
        example, axes = choose_inputs(module, example_inputs, None, inputs, arrays, seed)
    except UsageError as error:
        if example_inputs is not None or inputs:
            raise
        raise UsageError(
            f"example_inputs is missing (a tuple, or a dict, of inputs of the model): {error.text}"
        ) from error
    return Source(module, example, type(module).__name__, shared=True, axes=axes)


def _check_path(model: object) -> None:
    if not isinstance(model, str | Path):
        raise UsageError(
            f"the model is a {type(model).__name__}; give an nn.Module, a path, or "
            "'package.module:factory'"
        )
    given_path(model, "the model")
