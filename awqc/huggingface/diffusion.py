"""A local diffusers folder: what is in it, checked before anything of it is loaded."""

from __future__ import annotations

import copy
import importlib
import inspect
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from awqc.artifacts.json_files import read_json
from awqc.capture.identifiers import quoted
from awqc.errors import UsageError
from awqc.huggingface.folder import reporting
from awqc.huggingface.trust import check_config
from awqc.machine.process import quiet_libraries

MODEL_INDEX = "model_index.json"
CONFIG = "config.json"
LIBRARIES = ("diffusers", "transformers")
"""Packages whose classes a folder may name."""
WEIGHTS = ("*.safetensors", "*.bin", "*.msgpack", "*.onnx*", "*.index.json", "*.pt", "*.ckpt")
LARGEST = 256
"""Pixels along a side of the images that are made, at most: a CPU makes them."""
STEPS = 8
"""Steps of denoising, each of which is a call of the model that is calibrated."""
COUNTS = (2, 3)
"""Prompts that are taken at once, in turn: several, and not always as many."""
SHAPES = ((4, 4), (3, 4), (4, 3), (2, 3))
"""Height and width, in quarters of the side, in turn."""


@dataclass(frozen=True)
class DiffusionFolder:
    """A folder with a pipeline of diffusers."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> DiffusionFolder:
        """The folder at ``path``; nothing is loaded yet.

        Raises:
            UsageError: diffusers is not installed, or the folder names code that neither it nor
                transformers brings.
        """
        folder = cls(path)
        try:
            import diffusers  # noqa: F401 - whether it is installed
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{path}: diffusion pipelines need the package {error.name!r}; install it with: "
                "pip install 'awqc[diffusers]'"
            ) from error
        folder._check()
        return folder

    @property
    def name(self) -> str:
        """Name of the model, for messages and files."""
        return self.path.resolve().name

    def pipeline(self) -> Any:
        """The pipeline, in float32, its modules in eval mode.

        Raises:
            CaptureError: diffusers cannot load it, or weights are no safetensors.
        """
        import diffusers
        import torch

        with reporting(f"{self.path}: the pipeline could not be loaded"):
            load: Any = diffusers.DiffusionPipeline.from_pretrained
            made = load(
                str(self.path),
                local_files_only=True,
                use_safetensors=True,
                torch_dtype=torch.float32,
                trust_remote_code=False,
            )
        made.set_progress_bar_config(disable=True)
        for value in vars(made).values():
            if isinstance(value, nn.Module):
                value.eval()
        return made

    def bare_pipeline(self) -> tuple[Any, dict[str, Any]]:
        """The pipeline without weights, and its modules once more, of which only shapes are known.

        The modules of the pipeline have memory that nothing was written to; of a pipeline whose
        models are elsewhere nothing is computed with them.

        Raises:
            CaptureError: diffusers cannot make it of the configurations in the folder.
        """
        import diffusers
        import torch

        shapes: dict[str, Any] = {}
        with reporting(f"{self.path}: the pipeline could not be made"), quiet_libraries():
            for name, (library, kind) in self.components().items():
                known = library in LIBRARIES
                owner = importlib.import_module(library) if known else diffusers.pipelines
                made = getattr(owner if known else getattr(owner, library), kind, None)
                if not (isinstance(made, type) and issubclass(made, nn.Module)):
                    continue
                config: Any = getattr(made, "config_class", None)
                with torch.device("meta"):
                    shapes[name] = (
                        made(config.from_pretrained(self.path / name, local_files_only=True))
                        if config is not None
                        else made.from_config(made.load_config(self.path / name))  # type: ignore[attr-defined]  # all modules of diffusers have it
                    ).eval()
            empty = {
                name: copy.deepcopy(module).to_empty(device="cpu")
                for name, module in shapes.items()
            }
            load: Any = diffusers.DiffusionPipeline.from_pretrained
            pipeline = load(str(self.path), local_files_only=True, trust_remote_code=False, **empty)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline, shapes

    def components(self) -> dict[str, tuple[str, str]]:
        """The library and the class of each part of the pipeline that is there.

        Raises:
            UsageError: the file is none of diffusers'.
        """
        found: dict[str, tuple[str, str]] = {}
        for name, value in read_json(self.path / MODEL_INDEX).items():
            if name.startswith("_") or not isinstance(value, list):
                continue
            if len(value) != 2 or not all(part is None or isinstance(part, str) for part in value):
                raise UsageError(
                    f"{self.path / MODEL_INDEX}: {quoted(name)} is no pair of a library and a class"
                )
            if value[0] is not None and value[1] is not None:
                found[name] = (value[0], value[1])
        return found

    def copy_processing(self, target: Path) -> None:
        """Copy all but weights: configurations, tokenizers, the scheduler.

        Raises:
            CaptureError: a file cannot be read.
        """
        with reporting(f"{self.path}: a file cannot be copied"):
            shutil.copytree(
                self.path,
                target,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(*WEIGHTS, ".*", "*.py"),
            )

    def _check(self) -> None:
        import diffusers

        index = read_json(self.path / MODEL_INDEX)
        kind = index.get("_class_name")
        with quiet_libraries():
            known = isinstance(kind, str) and getattr(diffusers, kind, None)
        if not (isinstance(known, type) and issubclass(known, diffusers.DiffusionPipeline)):
            raise UsageError(
                f"{self.path / MODEL_INDEX}: _class_name is {quoted(kind)}, no pipeline of "
                f"diffusers {diffusers.__version__}; code of the folder's own is not run"
            )
        own = {name for name in dir(diffusers.pipelines) if not name.startswith("_")}
        for name, (library, _) in self.components().items():
            if library not in LIBRARIES and library not in own:
                raise UsageError(
                    f"{self.path / MODEL_INDEX}: {quoted(name)} is of {quoted(library)}, which is "
                    f"neither of {' nor '.join(LIBRARIES)}; code of the folder's own is not run"
                )
            config = self.path / name / CONFIG
            if Path(name).name != name:
                raise UsageError(
                    f"{self.path / MODEL_INDEX}: {quoted(name)} is no name of a folder in it"
                )
            if config.is_file() and library == "transformers":
                check_config(config.parent, read_json(config))


def pipeline_calls(
    pipeline: Any, prompts: Sequence[str], count: int, name: str
) -> list[dict[str, Any]]:
    """Keyword arguments of calls of ``pipeline``, of ``count`` samples in all, two calls at least.

    Raises:
        UsageError: it needs more than prompts, classes and sizes.
    """
    taken = inspect.signature(pipeline.__call__).parameters
    needed = [
        key
        for key, each in taken.items()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    if "image" in taken and "prompt" not in needed and _begins_with_image(pipeline):
        needed.append("image")
    if other := [key for key in needed if key not in ("prompt", "class_labels")]:
        raise UsageError(
            f"{name}: {type(pipeline).__name__} needs {', '.join(other)}; of a folder awqc makes "
            "calls with prompts, classes and sizes. Load the pipeline in Python and call "
            "awqc.compile(pipeline, run=lambda pipe: …)"
        )
    made = []
    for place, samples in enumerate(_groups(count)):
        some = [prompts[(sum(COUNTS) * place + i) % len(prompts)] for i in range(samples)]
        height, width = _size(pipeline, place)
        values = {
            "prompt": some,
            "class_labels": [place + i for i in range(samples)],
            "batch_size": samples,
            "height": height,
            "width": width,
            "num_inference_steps": STEPS,
            "use_resolution_binning": False,  # images have the sizes that are asked for
            "output_type": "pil",
        }
        made.append({key: value for key, value in values.items() if key in taken})
    return made


def _begins_with_image(pipeline: Any) -> bool:
    return "strength" in inspect.signature(pipeline.__call__).parameters


def _groups(count: int) -> Iterator[int]:
    """``count`` samples in groups of `COUNTS`; two groups at least."""
    place = 0
    while count > 0 or place < 2:
        yield COUNTS[place % len(COUNTS)]
        count -= COUNTS[place % len(COUNTS)]
        place += 1


def _size(pipeline: Any, place: int) -> tuple[int, int]:
    """Height and width of images, of which latents have halves, quarters and eighths."""
    factor = getattr(pipeline, "vae_scale_factor", 1)
    factor = factor if isinstance(factor, int) and factor > 0 else 1
    step = 8 * factor
    side = min(factor * _sample_size(pipeline), max(LARGEST, 4 * step))
    height, width = SHAPES[place % len(SHAPES)]
    return tuple(max(1, side * part // 4 // step) * step for part in (height, width))  # type: ignore[return-value]  # two of them


def _sample_size(pipeline: Any) -> int:
    """Height of the latents that its model was made for, as its configuration says; 32 if not."""
    for value in vars(pipeline).values():
        config = getattr(value, "config", None)
        size = config.get("sample_size") if isinstance(config, Mapping) else None
        if isinstance(value, nn.Module) and isinstance(size, int) and not _is_coder(value):
            return size
    return 32


def _is_coder(module: nn.Module) -> bool:
    """Whether it goes from images to latents and back, whose sizes are those of images."""
    return hasattr(module, "encode") and hasattr(module, "decode")
