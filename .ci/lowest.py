"""Print the lowest version that pyproject.toml promises for each dependency, as constraints."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["hf"], *extras["demo"], *extras["openvino"], *extras["audio"]]:
    name, bound, marker = re.fullmatch(r"([\w.-]+)>=([\w.]+)(.*)", requirement).groups()
    version = bound if bound.count(".") > 1 else f"{bound}.0"
    print(f"{name}=={version}{marker}")
