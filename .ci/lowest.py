"""Print the lowest version that pyproject.toml promises for each dependency, as constraints."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
named = [each for extra in ("hf", "demo", "openvino", "audio") for each in extras[extra]]
for requirement in [*project["dependencies"], *named]:
    name, bound, marker = re.fullmatch(r"([\w.-]+)>=([\w.]+)(.*)", requirement).groups()
    version = bound if bound.count(".") > 1 else f"{bound}.0"
    print(f"{name}=={version}{marker}")
