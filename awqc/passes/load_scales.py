"""The pass ``load-scales``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from awqc.artifacts.recipe import read_recipe, recipe_files
from awqc.channels.analysis import find_sites
from awqc.errors import UsageError, spelled
from awqc.executor.run import NO_DATA, Run
from awqc.findings import Allocation, Fact, Facts
from awqc.passes.base import Change, Pass
from awqc.program import Program
from awqc.weights.decisions import decide


@dataclass(frozen=True)
class LoadScales(Pass):
    """Take the scales of an earlier compile from its recipe, in place of a search.

    Finds the sites again and gives each the scales and the treatment that it had.
    Options: ``recipe``, the path of a ``recipe.json`` with ``scales.safetensors`` beside it.
    Refuses: a recipe whose sites are not those of this model.
    """

    recipe: str = field(default="recipe.json", metadata={"local": True, "files": recipe_files})
    name: ClassVar[str] = "load-scales"
    keeps_output: ClassVar[bool] = True
    bars: ClassVar[Facts] = frozenset({Fact.OBSERVERS, Fact.SCALES, Fact.CODES, Fact.HALF})
    gives: ClassVar[Facts] = frozenset({Fact.SITES, Fact.SCALES})

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Fill in sites and scales."""
        recipe = read_recipe(self.recipe)
        if recipe.widths or recipe.formats:
            own = Allocation(recipe.widths, formats=recipe.formats, groups=recipe.groups)
            program.learn(allocation=own)
        skipped = {**program.findings.skipped, **decide(program).refused}
        sites = {site.name: site for site in find_sites(program, skipped.__contains__)}
        missing = sorted(set(recipe.status) ^ set(sites))
        if missing:
            raise UsageError(
                f"{self.recipe}: belongs to another model or to other {spelled('exclude')}: "
                f"{missing[0]!r} is a site of only one of them"
            )
        changes = []
        scales = dict(program.findings.scales)
        for name, site in sites.items():
            status = recipe.status[name]
            if (status == "folded") != (site.status == "foldable"):
                raise UsageError(
                    f"{self.recipe}: site {name!r} was {status} then and is {site.status} now: "
                    "the recipe belongs to another model"
                )
            if status == "runtime":
                sites[name] = site.with_status("runtime")
            found = recipe.scales.get(name)
            needed = site.channels if status == "runtime" else site.scales
            if found is not None and status != "refused" and found.scale.numel() != needed:
                raise UsageError(
                    f"{self.recipe}: site {name!r} has {found.scale.numel()} scales, "
                    f"{needed} are needed: the recipe belongs to another model"
                )
            if found is not None:
                scales[name] = found
            changes.append(Change(name, f"{status}, from the recipe"))
        program.learn(sites=tuple(sites.values()), scales=scales, skipped=skipped)
        return changes
