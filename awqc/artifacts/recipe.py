"""The recipe of a compile: all that was decided, enough to do it again without data.

``recipe.json`` holds the decisions, ``scales.safetensors`` beside it the scales of each site;
for codes that learned from data see `awqc.artifacts.recipe_codes`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from awqc.artifacts.json_files import Object
from awqc.artifacts.recipe_codes import write_codes
from awqc.errors import UsageError
from awqc.graph.sites import SiteScale
from awqc.numerics.formats.found import named_format
from awqc.numerics.formats.int_grid import AUTO_GROUPS
from awqc.numerics.request import WIDTHS, QuantizationSpec
from awqc.program import Program

SCHEMA = 1
RECIPE_FILE = "recipe.json"
SCALES_FILE = "scales.safetensors"


@dataclass(frozen=True)
class Recipe:
    """Decisions of an earlier compile.

    Attributes:
        folder: where it was read from.
        pipeline: the passes that ran, as one line.
        quantization: bits, group_size, symmetric, exclude.
        widths: of weights that have their own, by name.
        formats: likewise, by their names.
        groups: columns a scale, of weights that have their own size, by name.
        status: of each site by name.
        scales: of each site that was searched, by name.
    """

    folder: Path
    pipeline: str
    quantization: dict[str, Any]
    widths: dict[str, int]
    formats: dict[str, str]
    groups: dict[str, int]
    status: dict[str, str]
    scales: dict[str, SiteScale]


def describe_recipe(program: Program, pipeline: str) -> dict[str, Any]:
    """The content of ``recipe.json``."""
    spec, allocation = program.quantization, program.findings.allocation
    return {
        "schema": SCHEMA,
        "pipeline": pipeline,
        "quantization": spec.describe(),
        **({"widths": dict(allocation.widths)} if allocation else {}),
        **({"groups": dict(allocation.groups)} if allocation and allocation.groups else {}),
        **({"formats": dict(allocation.formats)} if allocation and allocation.formats else {}),
        "sites": {
            site.name: {
                "status": site.status,
                **{
                    key: value
                    for key, value in _record(program.findings.scales.get(site.name)).items()
                    if key != "scale"
                },
            }
            for site in program.findings.sites
        },
    }


def _record(scale: SiteScale | None) -> dict[str, Any]:
    return {} if scale is None else asdict(scale)


def write_recipe(program: Program, pipeline: str, folder: Path) -> None:
    """Write ``recipe.json`` and ``scales.safetensors`` into ``folder``."""
    text = json.dumps(describe_recipe(program, pipeline), indent=2)
    (folder / RECIPE_FILE).write_text(text + "\n")
    scales = {
        site.name: program.findings.scales[site.name].scale.contiguous()
        for site in program.findings.sites
        if site.name in program.findings.scales
    }
    save_file(scales, folder / SCALES_FILE)
    if program.quantization.learns:
        write_codes(program, folder)


def _is_recipe(content: Any) -> bool:
    """Whether this looks as `describe_recipe` makes it; report.json, for one, does not."""
    kinds = {"schema": int, "pipeline": str, "quantization": dict, "sites": dict}
    return (
        isinstance(content, dict)
        and all(isinstance(content.get(key), kind) for key, kind in kinds.items())
        and content["schema"] == SCHEMA
    )


def recipe_files(path: Path) -> tuple[Path, ...]:
    """What `read_recipe` reads; ``path`` itself is the first."""
    file = path / RECIPE_FILE if path.is_dir() else path
    return path, file, file.parent / SCALES_FILE


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe; ``path`` is the file or the folder that holds it.

    Raises:
        UsageError: it is missing, or not a recipe.
    """
    _, file, scales_file = recipe_files(Path(path))
    try:
        content = Object.of(file)
        scales = load_file(scales_file)
    except (OSError, ValueError, SafetensorError, UsageError) as error:
        said = error.text if isinstance(error, UsageError) else error
        raise UsageError(
            f"{file}: cannot be read as a recipe ({said}); give the recipe.json of an earlier "
            f"compile, with {SCALES_FILE} beside it"
        ) from error
    if not _is_recipe(content.content):
        raise UsageError(
            f"{file}: is no recipe of schema {SCHEMA}; give the recipe.json of an earlier compile"
        )
    every = content.inside("sites")
    sites = {name: every.inside(name) for name in every.content}
    missing = [n for n, s in sites.items() if "candidate" in s.content and n not in scales]
    if missing:
        raise UsageError(f"{scales_file}: has no scales for {missing[0]!r}")
    return Recipe(
        folder=file.parent,
        pipeline=content.get("pipeline", str),
        quantization=_request(content.inside("quantization")),
        widths=_of_weights(content, "widths", WIDTHS),
        formats=_formats(content),
        groups=_of_weights(content, "groups", AUTO_GROUPS),
        status={name: site.get("status", str) for name, site in sites.items()},
        scales={
            name: _site_scale(site, scales[name])
            for name, site in sites.items()
            if "candidate" in site.content
        },
    )


def _request(content: Object) -> dict[str, Any]:
    """The fields of a `QuantizationSpec` that a recipe holds, in their types."""
    known = {
        field.name: int if field.default is None else type(field.default)
        for field in fields(QuantizationSpec)
    }
    for key in content.content:
        if key not in known:
            raise UsageError(f"{content.where}: has the key {key!r}; known are {', '.join(known)}")
    content.items("exclude", str)
    for key in content.content:
        kinds = (int, str) if key == "group_size" else list if key == "exclude" else known[key]
        content.get(key, kinds)
    return dict(content.content)


def _of_weights(content: Object, key: str, known: Sequence[int]) -> dict[str, int]:
    """What ``key`` has for weights by name, each one of the ``known`` numbers; empty without it."""
    found = content.inside(key).values(int) if key in content.content else {}
    for name, value in found.items():
        if value not in known:
            raise UsageError(
                f"{content.where}, {key}: {name!r} is {value}; it can be one of {tuple(known)}"
            )
    return found


def _formats(content: Object) -> dict[str, str]:
    formats = content.inside("formats").values(str) if "formats" in content.content else {}
    for name in filter(None, formats.values()):
        named_format(name)
    return formats


def _site_scale(site: Object, scale: torch.Tensor) -> SiteScale:
    return SiteScale(
        scale.to(torch.float32),
        site.get("candidate", str),
        site.get("loss_nearest", float),
        site.get("loss", float),
    )
