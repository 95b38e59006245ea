"""Whatever MODEL names, loaded and captured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from awqc.capture.archive import load_archive
from awqc.capture.exported import program_from_exported
from awqc.capture.inputs import (
    dynamic_axes,
    given_inputs,
    infer_example,
    inputs_from_arrays,
    parse_inputs,
)
from awqc.capture.module import DynamicAxes, ExampleInputs, capture_module
from awqc.capture.pickled import load_module
from awqc.capture.taken_over import unwrap
from awqc.data.image_transform import image_example
from awqc.errors import UsageError, spelled
from awqc.machine.process import quiet_libraries
from awqc.program import IMAGE, Program, Transform
from awqc.sources.factory import Factory
from awqc.sources.folders import check_folder, with_adapter
from awqc.sources.recognised import is_folder, recognise
from awqc.sources.stored_weights import StoredWeights


def load_program(
    model: str | Path,
    *,
    example: ExampleInputs | None = None,
    inputs: Sequence[str] = (),
    calib: Mapping[str, Tensor] | None = None,
    dynamic: DynamicAxes | None = None,
    trust_pickle: bool = False,
    seed: int = 0,
    task: str | None = None,
    trust_remote_code: bool = False,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
) -> Program:
    """Capture what ``model`` names: a file, a folder, or ``package.module:factory``.

    Example inputs are ``example``, or made of ``inputs`` (specs such as
    ``x=float32[batch,64]``), else come from the archive or factory, else from ``calib``
    (arrays by input name, first axis = samples), else from the first layer. ``task`` and
    ``trust_remote_code`` are for Hugging Face folders, into which the one of an ``adapter`` is
    merged; ``weights`` is a file for what a factory makes.

    Raises:
        UsageError: there is no such model, it is no model that can be compiled, or its
            inputs are not known; the message says what to do.
        CaptureError: the model cannot be loaded or captured.
    """
    path = Path(model).expanduser()
    factory = Factory.named(model)
    if factory is None:
        _refuse_weights(weights)
        if is_folder(path, str(model)):
            refuse_inputs(example, inputs, dynamic, "a Hugging Face model brings its own")
            return _load_folder(path, adapter, task=task, trust_remote_code=trust_remote_code)
        _refuse_adapter(adapter)
        if recognise(path) == "archive":
            refuse_inputs(example, inputs, dynamic, "a torch.export archive brings its own")
            exported = load_archive(path, trust=trust_pickle)
            with quiet_libraries():
                program = program_from_exported(exported, name=path.stem)
            program.files = (path,)
            return program
    source = load_source(
        model,
        example=example,
        inputs=inputs,
        calib=calib,
        trust_pickle=trust_pickle,
        seed=seed,
        weights=weights,
        adapter=adapter,
    )
    axes = {**source.axes, **(dynamic or {})}
    program = capture_module(
        source.module, source.example, name=source.name, dynamic=axes, copy=source.shared
    )
    program.files = source_files(model, weights)
    for note in source.notes:
        program.tell(note)
    if source.transform is not None:
        program.task = replace(program.task, reads=(IMAGE,), transform=source.transform)
    return program


def source_files(model: str | Path, *others: str | Path | None) -> tuple[Path, ...]:
    """The files that ``model`` and ``others`` name, as far as they are there."""
    factory = Factory.named(model)
    given = [model if factory is None else factory.path, *others]
    paths = [Path(each).expanduser() for each in given if each is not None]
    return tuple(path for path in paths if path.exists())


@dataclass(frozen=True)
class Source:
    """A module before it is captured.

    Attributes:
        module: the module.
        example: example inputs.
        name: for messages and files.
        shared: whether somebody else may hold the module too.
        axes: dynamic axes that the user's specs of inputs name.
        transform: what makes its input of an image, where the user's code says so.
        notes: what the user should know of how it was loaded.
    """

    module: nn.Module
    example: ExampleInputs
    name: str
    shared: bool
    axes: DynamicAxes = field(default_factory=dict)
    transform: Transform | None = None
    notes: tuple[str, ...] = ()


def load_source(
    model: str | Path,
    *,
    example: ExampleInputs | None = None,
    inputs: Sequence[str] = (),
    calib: Mapping[str, Tensor] | None = None,
    trust_pickle: bool = False,
    seed: int = 0,
    task: str | None = None,
    trust_remote_code: bool = False,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
) -> Source:
    """The module that ``model`` holds, and its inputs.

    ``model`` is a pickle, ``package.module:factory`` or a Hugging Face folder, for which ``task``
    and ``trust_remote_code`` are. ``weights`` is a file for what a factory makes, ``adapter`` a
    folder that is merged into a Hugging Face folder.

    Raises:
        UsageError: it is none of these, or its inputs are not known.
        CaptureError: it cannot be loaded.
    """
    path = Path(model).expanduser()
    factory = Factory.named(model)
    if factory is not None:
        _refuse_adapter(adapter)
        return _from_factory(factory, weights, example, inputs, calib, trust_pickle, seed)
    _refuse_weights(weights)
    if is_folder(path, str(model)):
        refuse_inputs(example, inputs, None, "a Hugging Face model brings its own")
        folder, notes = with_adapter(path, adapter, trust_remote_code)
        check_folder(folder)
        from awqc.huggingface.opened import open_uncaptured

        opened = open_uncaptured(folder, task=task, trust_remote_code=trust_remote_code)
        return Source(*opened, shared=False, notes=notes)
    _refuse_adapter(adapter)
    if recognise(path) != "pickle":
        raise UsageError(
            f"{path}: is no pickled nn.Module; give one (.pt), a Hugging Face folder, "
            "package.module:factory or path/to/file.py:factory"
        )
    module = unwrap(load_module(path, trust=trust_pickle))
    chosen, axes = choose_inputs(module, example, None, inputs, calib, seed)
    return Source(module, chosen, path.stem, shared=False, axes=axes)


def _from_factory(
    factory: Factory,
    weights: str | Path | None,
    example: ExampleInputs | None,
    inputs: Sequence[str],
    calib: Mapping[str, Tensor] | None,
    trust: bool,
    seed: int,
) -> Source:
    """What ``factory`` makes, with the weights of a file, if one is given."""
    stored = None if weights is None else StoredWeights.read(weights, trust=trust)
    made = factory.call(None if stored is None else stored.arguments)
    module = unwrap(made.module)
    notes = () if stored is None else tuple(stored.load_into(module))
    own = made.example
    if own is None and made.transform is not None and example is None and not inputs:
        own = image_example(made.transform, factory.text)
    chosen, axes = choose_inputs(module, example, own, inputs, calib, seed)
    return Source(module, chosen, factory.name, True, axes, made.transform, notes)


def _refuse_weights(weights: str | Path | None) -> None:
    if weights is not None:
        raise UsageError(
            f"{spelled('weights')} is for a model that package.module:factory or "
            "path/to/file.py:factory makes; other models bring their own weights: leave it out"
        )


def choose_inputs(
    module: nn.Module,
    example: ExampleInputs | None,
    own: ExampleInputs | None,
    inputs: Sequence[str],
    calib: Mapping[str, Tensor] | None,
    seed: int,
) -> tuple[ExampleInputs, DynamicAxes]:
    """The first example inputs that there are, and the axes that they name.

    In order: ``example`` or ``inputs``, which the caller gives; the module's ``own``; samples of
    ``calib``; what the first layer asks for.

    Raises:
        UsageError: there are none, or two.
    """
    if example is not None and inputs:
        raise UsageError(f"example_inputs and {spelled('inputs')} say the same: give one of them")
    if inputs:
        specs = parse_inputs(inputs)
        return given_inputs(module, specs, seed), dynamic_axes(specs)
    example = own if example is None else example
    if example is None and calib:
        example = inputs_from_arrays(module, calib)
    return (infer_example(module, seed=seed) if example is None else example), {}


def brings_inputs(model: str | Path) -> bool:
    """Whether ``model`` is a folder, a GGUF file or an archive, which know their inputs."""
    path = Path(model).expanduser()
    if Factory.named(model) is not None:
        return False
    return is_folder(path, str(model)) or recognise(path) == "archive"


def refuse_inputs(
    example: ExampleInputs | None,
    inputs: Sequence[str],
    dynamic: DynamicAxes | None,
    reason: str,
) -> None:
    """Refuse inputs for what has its own.

    Raises:
        UsageError: some are given.
    """
    given = {
        "example_inputs": example is not None, "inputs": bool(inputs), "dynamic": bool(dynamic)
    }  # fmt: skip
    for name in (name for name, there in given.items() if there):
        raise UsageError(f"{spelled(name)} does not apply: {reason}; leave it out")


def _load_folder(
    path: Path, adapter: str | Path | None, *, task: str | None, trust_remote_code: bool
) -> Program:
    folder, notes = with_adapter(path, adapter, trust_remote_code)
    check_folder(folder)
    from awqc.huggingface.capture import load_folder

    program = load_folder(folder, task=task, trust_remote_code=trust_remote_code)
    for note in notes:
        program.tell(note)
    program.files = (*program.files, *source_files(path, adapter))
    return program


def _refuse_adapter(adapter: str | Path | None) -> None:
    if adapter is not None:
        raise UsageError(
            f"{spelled('adapter')} is merged into a Hugging Face folder; MODEL is none: leave it "
            "out"
        )
