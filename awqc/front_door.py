"""The way in: `compile` for whatever the caller has, a model of one graph or of several."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

from torch import nn
from torch.export import ExportedProgram

from awqc.artifacts.target import prepare_folder
from awqc.capture.module import ExampleInputs
from awqc.compiler import Compiled, compile_graph
from awqc.data.load import Calib, DataSource
from awqc.errors import Note, UsageError, spelled
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.task_table import FolderTask
from awqc.machine.given_paths import given_path
from awqc.machine.process import undisturbed
from awqc.machine.ranks import ALONE, Ranks
from awqc.options import Options, parse_options
from awqc.options.declare import takes
from awqc.passes.pipeline import Observe
from awqc.passes.planning import Plan
from awqc.program import Program
from awqc.sources.opening import ModelLike, find_run_folder, find_several_graphs
from awqc.stages.asked import prepare, used_files
from awqc.stages.foreseen import foresee
from awqc.whole.compiling import CompiledBundle, check_whole, kept_beside
from awqc.whole.from_folder import compile_generating
from awqc.whole.from_run import compile_run
from awqc.whole.plans import WholePlan, plan_generating, plan_run_folder
from awqc.whole.recorded_run import Run, own_modules
from awqc.whole.run_folders import RunFolder, compile_run_folder


@overload
def compile(
    model: nn.Module | ExportedProgram | Program,
    example_inputs: ExampleInputs | None = None,
    calib: Calib | None = None,
    *,
    output_dir: str | Path | None = None,
    observe: Observe | None = None,
    notify: Callable[[Note], object] | None = None,
    ranks: Ranks = ALONE,
    **options: Any,
) -> Compiled: ...


@overload
def compile(
    model: str | Path,
    example_inputs: ExampleInputs | None = None,
    calib: Calib | None = None,
    *,
    output_dir: str | Path | None = None,
    observe: Observe | None = None,
    notify: Callable[[Note], object] | None = None,
    ranks: Ranks = ALONE,
    **options: Any,
) -> Any: ...


@overload
def compile(
    model: Any,
    *,
    run: Run,
    output_dir: str | Path | None = None,
    notify: Callable[[Note], object] | None = None,
    **options: Any,
) -> CompiledBundle: ...


@takes(Options)
@undisturbed()
def compile(
    model: Any,
    example_inputs: ExampleInputs | None = None,
    calib: Calib | None = None,
    *,
    run: Run | None = None,
    output_dir: str | Path | None = None,
    observe: Observe | None = None,
    notify: Callable[[Note], object] | None = None,
    ranks: Ranks = ALONE,
    **options: Any,
) -> Compiled | CompiledBundle:
    """Quantize the weights of ``model``, export it, and verify the result against it.

    A Hugging Face folder of an encoder-decoder gives a `CompiledBundle`: its parts are found in
    what its ``generate`` calls, each is compiled, and the whole generates with them. So does
    whatever ``run`` runs::

        awqc.compile(pipeline, run=lambda pipe: [pipe(prompt) for prompt in prompts])

    Everything else gives a `Compiled`.

    Args:
        model: a module or an exported program (it is not changed), a captured program (it is
            consumed), or what the command line takes: the path of a torch.export archive, a
            pickled module, a Hugging Face folder or a GGUF file, or ``"package.module:factory"``.
        example_inputs: a tuple of positional or a dict of keyword inputs; None: as the model
            brings them, as the option ``inputs`` or arrays in ``calib`` say, or as the first
            layer asks for.
        calib: calibration data: text, images or audio for what reads such from a Hugging Face
            folder, a file of arrays, an iterable of batches in the form of ``example_inputs``, or
            a dict of whole arrays by input name. None: data is made up, and the report says so.
        run: runs ``model``, its argument, on some samples; the modules that it calls from outside
            of all modules (or those that the option ``part`` names) become graphs of their own, on
            what reaches them. ``model`` may then be any object that has modules as attributes,
            such as a pipeline. Called three times, with the same seeds: to find the parts, to
            record them, and with what was compiled in their place. What it returns (tensors,
            arrays, images, texts) is compared; it should be samples of several sizes, since axes
            that do not differ may be fixed.
        output_dir: where to write the artifacts; None: nowhere, see `Compiled.save`.
        observe: called after each pass; for models of one graph.
        notify: called with each `Note` on the model and the data, as soon as it is known.
        ranks: the processes that share calibration and the work on weights, each of which calls
            this alike, see `awqc.machine.ranks.all_ranks`. The first one exports, verifies and
            writes; the others return the same module with an empty report and no files. For
            models of one graph.

    Raises:
        UsageError: an argument is wrong.
        CaptureError: the model cannot be loaded or captured; `awqc.compile_partial` may help.
        UnsupportedGraphError: the model's weights are not finite.
        CalibrationError: the data does not fit, or makes the model overflow.
        VerificationError: the result is not the model that was asked for; nothing is written.
        RankError: another process failed, or is gone.
    """
    chosen = parse_options(**options)
    if run is not None:
        if calib is not None or example_inputs is not None or observe is not None:
            raise UsageError(
                "calib, example_inputs and observe do not apply where run is given: it says what "
                "the model reads; leave them out"
            )
        return _compile_run(model, run, chosen, options, output_dir, notify, ranks)
    whole = _find_whole(model, chosen)
    if whole is None:
        return compile_graph(
            model,
            example_inputs,
            calib,
            output_dir=output_dir,
            observe=observe,
            notify=notify,
            ranks=ranks,
            **options,
        )
    if observe is not None or ranks.count > 1 or example_inputs is not None:
        raise UsageError(
            f"{model}: is a model of several graphs, for which observe, ranks and example_inputs "
            "are not made; leave them out"
        )
    pipeline, _ = prepare(chosen)
    used = used_files(model, calib, pipeline, chosen)
    target = None if output_dir is None else given_path(output_dir, "output_dir")
    if target is not None:
        prepare_folder(target, used)
    source, tell = DataSource.of(calib), notify or (lambda note: None)
    given = kept_beside(target, options)
    with ExitStack() as hold:
        if not isinstance(whole, tuple):
            result = compile_run_folder(whole, source, chosen, given, tell, hold)
        else:
            folder, task, notes = whole
            for text in notes:
                tell(Note(text, warning=True))
            result = compile_generating(folder, task, source, chosen, given, tell, hold)
        result.used = used
        if target is not None:
            result.save(target)
    return result


def plan_compile(model: ModelLike, calib: Calib | None, options: Options) -> Plan | WholePlan:
    """What `compile` of ``model`` will need: memory, disk and time.

    Raises what `compile` raises of its arguments.
    """
    whole = _find_whole(model, options)
    if whole is None:
        return foresee(model, calib, options)
    prepare(options)
    source = DataSource.of(calib)
    if not isinstance(whole, tuple):
        return plan_run_folder(whole, source, options)
    return plan_generating(whole[0], whole[1], source, options)


def _find_whole(
    model: Any, options: Options
) -> RunFolder | tuple[HFFolder, FolderTask, tuple[str, ...]] | None:
    """The folder of a model of several graphs that ``model`` is; None of one graph.

    Raises:
        UsageError: the folder is none that could be used, or an option is not for such a model.
        CaptureError: transformers does not know the architecture.
    """
    how = options.task, options.trust_remote_code, options.adapter
    run = find_run_folder(model, *how)
    if options.part and run is None:
        raise UsageError(
            f"{spelled('part')} is for models that are run to find their parts: a diffusers "
            "folder, one of a model that speaks, or awqc.compile(model, run=…) in Python; leave it "
            "out"
        )
    several = None if run is not None else find_several_graphs(model, *how)
    if options.image_size is not None and (several is None or not several[1].prompted):
        raise UsageError(
            f"{spelled('image_size')} is for models that read images and text in one decoder; "
            "leave it out"
        )
    found = run or several
    if found is not None and options.weights is not None:
        raise UsageError(
            f"{spelled('weights')} is for a model that a factory makes; {model} brings its own"
        )
    return found


def _compile_run(
    model: Any,
    run: Run,
    chosen: Options,
    options: dict[str, Any],
    output_dir: str | Path | None,
    notify: Callable[[Note], object] | None,
    ranks: Ranks,
) -> CompiledBundle:
    """See `compile`."""
    if not callable(run):
        raise UsageError(f"run is a {type(run).__name__}; a function of the model is needed")
    if isinstance(model, str | Path) or ranks.count > 1:
        raise UsageError(
            "where run is given, the model is one that is loaded already, in one process; load it "
            "first"
        )
    check_whole(chosen, ("num_samples", "image_size"))
    prepare(chosen)
    target = None if output_dir is None else given_path(output_dir, "output_dir")
    if target is not None:
        prepare_folder(target, ())
    given, tell = kept_beside(target, options), notify or (lambda note: None)
    with ExitStack() as hold:
        result, _ = compile_run(own_modules(model), run, chosen, given, tell, hold=hold)
        if target is not None:
            result.save(target)
    return result
