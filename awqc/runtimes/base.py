"""What a runtime is: a file of this folder that opens compiled models.

A runtime is found by its file: any module here with a function ``open_model`` is one, and its
name is the module's, with ``-`` for ``_``. To find runtimes none is imported; neither torch nor
any runtime's package is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from awqc.errors import UsageError, VerificationError, spelled

if TYPE_CHECKING:
    from torch import Tensor

    from awqc.program import Batch, InputSpec

DEFAULT_RUNTIMES = ("onnxruntime",)
_OPENS = "\ndef open_model("


@dataclass(frozen=True)
class ArraySpec:
    """An input of a model: ``dtype`` as NumPy calls it; names in ``shape`` are axes that vary."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Kernels:
    """How a runtime computes with quantized weights.

    Attributes:
        low_bit: kernels that read codes.
        unfused: names of quantized weights of matrix products that no such kernel reads.
        dequantized: names of quantized weights of other operations, such as convolutions, that
            no such kernel reads.
        precision: what products with codes are computed in, in the runtime's words.
    """

    low_bit: int
    unfused: tuple[str, ...]
    dequantized: tuple[str, ...]
    precision: str


class LoadedModel(Protocol):
    """A compiled model that is ready to run, in any runtime.

    Attributes:
        inputs: what it takes; dynamic axes by name.
        outputs: names of the outputs, in order.
        states: pairs (input, output) of a key/value cache, by the ecosystem's names.
        provider: where it runs: ``cpu`` or ``cuda``.
    """

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """See above."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """See above."""
        ...

    @property
    def states(self) -> tuple[tuple[str, str], ...]:
        """See above."""
        ...

    @property
    def provider(self) -> str:
        """See above."""
        ...

    def run(self, batch: Batch, only: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """Outputs in order, on the CPU; of ``only`` some, if they are named.

        Raises:
            VerificationError: the runtime does not take the batch.
        """
        ...

    def kernels(self) -> Kernels:
        """How it computes with quantized weights; costs about as much as loading again."""
        ...


class Runtime(Protocol):
    """A module of this folder that opens compiled models.

    Attributes:
        FORMS: the formats that it opens, each with its file in an output folder.
        EXACT_ADVICE: how a user makes it compute exactly, as the end of a sentence.
    """

    FORMS: dict[str, str]
    EXACT_ADVICE: str

    def lacks(self) -> str | None:
        """What it lacks to work here, and what to do about it; None if it works."""
        ...

    def open_model(self, file: Path, *, exact: bool, provider: str = "cpu") -> LoadedModel:
        """Open the model ``file``.

        Args:
            file: in one of `FORMS`.
            exact: compute products in float32 (or in the model's own dtype), to see whether the
                file is right; else as in a user's session that sets nothing.
            provider: ``auto``, ``cuda`` or ``cpu``, for runtimes that know more than the CPU.

        Raises:
            UsageError: the runtime or the provider does not work here.
            VerificationError: the runtime does not load the model.
        """
        ...

    def load(self, path: Path, provider: str, accuracy_level: int | None) -> LoadedModel:
        """Open a folder or file for a user, as `awqc.load` describes."""
        ...


def runtime_names() -> tuple[str, ...]:
    """Names of all runtimes, whether what they need is installed or not.

    >>> runtime_names()[0]
    'onnxruntime'
    """
    files = Path(__file__).parent.glob("*.py")
    return tuple(sorted(_name(file.stem) for file in files if _OPENS in file.read_text("utf-8")))


def _name(module: str) -> str:
    return module.replace("_", "-")


def find_runtime(name: str) -> Runtime:
    """The runtime ``name``, working.

    Raises:
        UsageError: there is none of that name, or it does not work here.
    """
    known = runtime_names()
    if name not in known:
        raise UsageError(f"runtime {name!r} is unknown; choose from {', '.join(known)}")
    runtime = cast("Runtime", import_module(f"awqc.runtimes.{name.replace('-', '_')}"))
    reason = runtime.lacks()
    if reason is not None:
        raise UsageError(f"{name}: {reason}")
    return runtime


def check_runtimes(names: Sequence[str], formats: Sequence[str]) -> tuple[str, ...]:
    """``names`` without repetition, each of which runs one of ``formats``.

    What stands in `DEFAULT_RUNTIMES` is not looked at: it verifies what it can.

    Raises:
        UsageError: a name is unknown, there is none, or a runtime has nothing to run.
    """
    if not names:
        known = ", ".join(runtime_names())
        raise UsageError(f"no runtime to verify with is given; choose from {known}")
    if tuple(names) == DEFAULT_RUNTIMES:
        return DEFAULT_RUNTIMES
    for name in names:
        forms = find_runtime(name).FORMS
        if not set(forms) & set(formats):
            raise UsageError(
                f"{name} has nothing to verify: it runs {' and '.join(forms)}, the formats to "
                f"write are {', '.join(formats)}; add {next(iter(forms))} to them"
            )
    return tuple(dict.fromkeys(names))


def find_form(path: Path, forms: Mapping[str, str], name: str) -> Path:
    """The file that runtime ``name`` opens: ``path`` itself, or the first of ``forms`` in it.

    Raises:
        UsageError: there is none.
    """
    endings = {Path(form).suffix for form in forms.values()}
    if path.is_file() and path.suffix.lower() in endings:
        return path
    for form in forms.values():
        if (path / form).is_file():
            return path / form
    wanted = " or ".join(forms.values())
    raise UsageError(
        f"{path}: there is no {wanted}, which {name} runs; give the output folder of a compile "
        f"with {spelled('formats', next(iter(forms)))}"
    )


def needed(runtime: str, inputs: Sequence[InputSpec], batch: Batch) -> Batch:
    """What ``batch`` has for ``inputs``.

    Raises:
        VerificationError: one is missing, or floating where it should not be or the reverse:
            some runtimes would convert that without a word.
    """
    for spec in inputs:
        value = batch.get(spec.name)
        if value is None:
            raise VerificationError(f"{runtime} cannot run the model: {spec.name} is not given")
        if value.dtype.is_floating_point != spec.dtype.is_floating_point:
            raise VerificationError(
                f"{runtime} cannot run the model: {spec.name} is {value.dtype}, it takes {spec}"
            )
    return {spec.name: batch[spec.name] for spec in inputs}


@contextmanager
def failing_as(message: str, *errors: type[Exception]) -> Iterator[None]:
    """``errors``, which a runtime raises, as a `VerificationError`: ``message`` and its words."""
    try:
        yield
    except errors as error:
        raise VerificationError(f"{message}: {telling_line(str(error))}") from error


def telling_line(text: str) -> str:
    """The line of a runtime's message that says what is wrong.

    >>> telling_line("Exception from a.cpp:1:\\nCheck 'x' failed at b.cpp:2:\\nno such thing\\n")
    'no such thing'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith(":") and not line.startswith("--")]
    return (telling or lines or ["no reason given"])[0]
