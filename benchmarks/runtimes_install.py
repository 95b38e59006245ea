"""Throw-away environments for the runtimes that `benchmarks.runtimes` tries."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

NODE = ("onnxruntime-node", "onnxruntime-web")
PYTHON = {
    "openvino": ("openvino", "numpy"),
    # Beside this environment's torch, whose version it must fit.
    "executorch": ("flatbuffers", "ruamel.yaml", "tabulate", "pandas", "pyyaml"),
}
WITHOUT_DEPENDENCIES = {"executorch": ("executorch", "torchao")}


def install(root: Path) -> None:
    """Install all clients into ``root``; what fails is told and left out."""
    node = root / "node"
    node.mkdir(parents=True, exist_ok=True)
    (node / "package.json").write_text(json.dumps({"private": True}))
    # Scripts of the packages would fetch GPU libraries.
    _try(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *NODE], node)
    for name, packages in PYTHON.items():
        environment = root / name
        venv.create(environment, with_pip=True, clear=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _try([*pip, *packages], root)
        if name in WITHOUT_DEPENDENCIES:
            _try([*pip, "--no-deps", *WITHOUT_DEPENDENCIES[name]], root)
            _see_our_packages(environment)


def _try(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)


def _see_our_packages(environment: Path) -> None:
    """Let ``environment`` import what this one has, torch above all."""
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")


def npm_version(root: Path, package: str) -> str | None:
    """Version of an installed npm package."""
    path = root / "node" / "node_modules" / package / "package.json"
    return str(json.loads(path.read_text())["version"]) if path.is_file() else None


def python_version(root: Path, name: str) -> str | None:
    """Version of the package ``name`` in the environment ``name``."""
    code = f"from importlib.metadata import version; print(version({name!r}))"
    python = root / name / "bin" / "python"
    if not python.is_file():
        return None
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
