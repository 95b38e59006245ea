"""The other tools of the accuracy table: what is installed for each, and its environment.

Each tool gets a virtual environment of its own in a cache folder. It sees the packages of the
environment that creates it (torch and transformers are large) unless the tool pins others.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).parent / "accuracy_peers"
READY = "requirements.txt"


@dataclass(frozen=True)
class Tool:
    """A tool that quantizes a model.

    Attributes:
        name: as the table has it.
        packages: what pip installs, pinned.
        script: the file in ``accuracy_peers`` that runs it.
        methods: its algorithms, by the name that the script knows.
        formats: whether these are formats that say themselves how many bits there are.
    """

    name: str
    packages: tuple[str, ...]
    script: str
    methods: tuple[str, ...]
    formats: bool = False


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("onnxruntime", ("onnxruntime==1.31.1",), "run_onnxruntime.py", ("rtn", "hqq", "gptq")),
        Tool("torchao", ("torchao==0.18.0",), "run_torchao.py", ("awq", "hqq")),
        Tool("nncf", ("nncf==3.4.0",), "run_nncf.py", ("awq", "awq-scale-estimation", "mixed")),
        Tool(
            "nncf-openvino",
            ("nncf==3.4.0", "openvino==2026.4.1"),
            "run_nncf_openvino.py",
            ("gptq", "awq-gptq", "awq-gptq-scale-estimation"),
        ),
        Tool("modelopt", ("nvidia-modelopt==0.47.0",), "run_modelopt.py", ("awq_lite", "awq_full")),
        Tool(
            "auto-round",
            ("auto-round==0.16.1",),
            "run_auto_round.py",
            ("awq", "awq-clip", "signround"),
        ),
        Tool(
            "llm-compressor", ("llmcompressor==0.14.0.1",), "run_llmcompressor.py", ("awq", "gptq")
        ),
        Tool("gptqmodel", ("gptqmodel==7.7.0",), "run_gptqmodel.py", ("gptq", "awq")),
        Tool(
            "neural-compressor",
            ("neural-compressor-pt==3.10",),
            "run_neural_compressor.py",
            ("awq", "teq", "autoround", "gptq"),
        ),
        Tool("hqq", ("hqq==0.2.8.post1",), "run_hqq.py", ("hqq",)),
        Tool("quark", ("amd-quark==0.13",), "run_quark.py", ("awq", "gptq", "qronos")),
        Tool(
            "llama.cpp",
            ("llama-cpp-python==0.3.36", "gguf==0.19.0"),
            "run_llama_cpp.py",
            (
                *("Q4_K_M", "Q4_K_S", "Q4_K", "Q4_0", "IQ4_NL", "IQ4_XS"),
                *("Q3_K_M", "IQ3_S", "IQ3_XXS", "Q2_K"),
            ),
            formats=True,
        ),
    )
}


class ToolError(Exception):
    """A tool cannot be installed or run; the message is the tool's own last line."""


def interpreter(tool: Tool, cache: Path) -> Path:
    """The python of ``tool``'s environment below ``cache``, created where it is missing.

    Raises:
        ToolError: pip cannot install it.
    """
    folder = cache / tool.name
    python = folder / "bin" / "python"
    done = folder / READY
    wanted = "\n".join(tool.packages)
    if done.is_file() and done.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    own = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})["purelib"]
    shared = sysconfig.get_paths()["purelib"]
    (Path(own) / "shared.pth").write_text(shared + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", *tool.packages]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ToolError(last_error(ran.stderr, ran.returncode))
    done.write_text(wanted)
    return python


def last_error(text: str, code: int) -> str:
    """The last line of ``text`` that names an error; else the last that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or [f"ended with {code}"])[-1][:300]


def main() -> None:
    """Create environments: python -m benchmarks.accuracy_tools CACHE [TOOL ...]."""
    for name in sys.argv[2:] or TOOLS:
        try:
            print(name, interpreter(TOOLS[name], Path(sys.argv[1])), flush=True)
        except ToolError as error:
            print(name, error, flush=True)


if __name__ == "__main__":
    main()
