"""The command line called in this process: every option's good values and bad ones."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from awqc.cli import COMMANDS, cli, run
from awqc.passes.pipeline import PASSES
from tests.commands.test_cli import fill
from tests.tiny import mlp

QUICK = ("compile", "model.pt", "--calib", "data.npz", "--formats", "pt2")
Capture = pytest.CaptureFixture[str]


class Own(nn.Linear):
    """A class that is not torch's."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data of all kinds, usable and not."""
    folder = fill(tmp_path_factory.mktemp("options"))
    torch.save(mlp().state_dict(), folder / "state.pt")
    torch.save(Own(16, 8), folder / "own.pt")
    damaged = nn.Linear(16, 8)
    damaged.weight.data[2, 3] = torch.nan
    torch.save(nn.Sequential(damaged), folder / "damaged.pt")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit")
        torch.jit.save(torch.jit.script(mlp()), folder / "script.pt")  # type: ignore[no-untyped-call]  # torch declares no types
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    (folder / "text.pt").write_text("no model")
    good = np.load(folder / "data.npz")["input"]
    bad = good.copy()
    bad[3, 5] = np.nan
    np.savez(folder / "name.npz", x=good)
    np.savez(folder / "extra.npz", input=good, x=good)
    np.savez(folder / "shape.npz", input=good[:, :15])
    np.savez(folder / "axes.npz", input=good[0])
    np.savez(folder / "dtype.npz", input=good.astype(np.complex64))
    np.savez(folder / "words.npz", input=np.array(["a", "b"]))
    np.savez(folder / "nan.npz", input=bad)
    np.savez(folder / "inf.npz", input=np.where(np.isnan(bad), np.inf, bad))
    np.savez(folder / "none.npz", input=good[:0])
    np.savez(folder / "nothing.npz")
    np.save(folder / "single.npy", good)
    (folder / "broken.npz").write_bytes((folder / "data.npz").read_bytes()[:400])
    assert run([str(arg) for arg in (*_at(folder, QUICK), "-o", folder / "done")]) == 0
    return folder


def _at(folder: Path, args: tuple[str, ...]) -> list[str]:
    return [str(folder / arg) if (folder / arg).exists() else arg for arg in args]


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def calib(name: str) -> tuple[str, ...]:
    return ("compile", "model.pt", "--input", "input=float32[batch,16]", "--calib", name)


REFUSED = {
    "no file": (("compile", "nope.pt"), 2, "there is no such file or folder"),
    "state dict": (("compile", "state.pt"), 2, "bare state dict"),
    "own class": (("compile", "own.pt"), 2, r"Own, which is not part of torch.nn.*--trust-pickle"),
    "damaged": (("compile", "damaged.pt"), 1, "the weight 0.weight holds NaN"),
    "torchscript": (("compile", "script.pt"), 2, "is a TorchScript archive"),
    "onnx": (("compile", "model.onnx"), 2, "is an ONNX file"),
    "no model": (("compile", "text.pt"), 2, "is no model that awqc knows"),
    "npz as model": (("compile", "data.npz"), 2, "give it as --calib"),
    "folder": (("compile", "."), 2, "no config.json"),
    "no package": (("compile", "no_package:make"), 2, "there is no Python module 'no_package'"),
    "no function": (("compile", "os:nope"), 2, "has no 'nope'"),
    "no module made": (("compile", "os:getcwd"), 2, "returned a str; return an nn.Module"),
    "calib name": (calib("name.npz"), 1, "'x' is no input"),
    "calib extra": (calib("extra.npz"), 1, "'x' is no input"),
    "calib shape": (calib("shape.npz"), 1, "has the size 15 on axis 1"),
    "calib axes": (calib("axes.npz"), 1, "has 1 axes"),
    "calib dtype": (calib("dtype.npz"), 1, "is complex64; the model takes float32"),
    "calib words": (calib("words.npz"), 1, "is no tensor|plain numeric arrays"),
    "calib nan": (calib("nan.npz"), 1, "holds NaN"),
    "calib inf": (calib("inf.npz"), 1, "holds inf"),
    "calib no samples": (calib("none.npz"), 1, "is empty"),
    "calib no arrays": (calib("nothing.npz"), 1, "holds no arrays"),
    "calib no name": (calib("single.npy"), 1, "a single array without a name"),
    "calib broken": (calib("broken.npz"), 1, "damaged"),
    "calib no file": (calib("nope.npz"), 2, "there is no such calibration file"),
    "calib model": (calib("model.pt"), 1, "file of tensors"),
    "samples": ((*QUICK, "--num-samples", "0"), 2, "'--num-samples'"),
    "seq-len": ((*QUICK, "--seq-len", "8"), 2, "--seq-len is for language models"),
    "bits": ((*QUICK, "--bits", "5"), 2, "'5' is not one of"),
    "group": ((*QUICK, "--group-size", "0"), 2, "--group-size 0: give 1 or more, or auto, or -1"),
    "group word": ((*QUICK, "--group-size", "x"), 2, "--group-size x: a whole number, or auto"),
    "exclude": ((*QUICK, "--exclude", "("), 2, r"--exclude '\(' is no regular expression"),
    "format": ((*QUICK, "--formats", "tflite"), 2, "--formats tflite: choose one of onnx, ort"),
    "no format": ((*QUICK, "--formats", ""), 2, "--formats is empty; choose from onnx"),
    "dtype": ((*QUICK, "--dtype", "int8"), 2, "'int8' is not one of"),
    "option": ((*QUICK, "--nope"), 2, "No such option"),
    "command": (("nope",), 2, "No such command"),
    "no model given": (("compile",), 2, "Missing argument 'MODEL'"),
    "pass": ((*QUICK, "--pipeline", "canonicalize,nope"), 2, "no pass is called 'nope'"),
    "pass option": ((*QUICK, "--pipeline", "search-scales{nope=1}"), 2, "has no option 'nope'"),
    "pass value": ((*QUICK, "--pipeline", "search-scales{grid=x}"), 2, "grid=x"),
    "device": ((*QUICK, "--device", "abacus"), 2, "--device abacus: is unknown"),
    "max-loss": ((*QUICK, "--max-loss", "-1"), 2, "'--max-loss'"),
    "recipe": ((*QUICK, "--recipe", "nope.json"), 2, "cannot be read as a recipe"),
    "recipe report": ((*QUICK, "--recipe", "done/report.json"), 2, "is no recipe"),
    "print-after": ((*QUICK, "--print-after", "nope"), 2, "give all, or one of"),
    "dump-dir": ((*QUICK, "--dump-dir", "text.pt"), 2, "--dump-dir text.pt: is a file"),
    "output file": ((*QUICK, "-o", "text.pt"), 2, "text.pt: is a file"),
    "output in file": ((*QUICK, "-o", "text.pt/out"), 2, "no folder that you may write to"),
    "output taken": ((*QUICK, "-o", "."), 2, "holds files that awqc did not write"),
    "output impossible": ((*QUICK, "-o", "/proc/none/out"), 1, "/proc/none/out: cannot be written"),
    "input form": (("compile", "model.pt", "--input", "x"), 2, "--input x cannot be read"),
    "input dtype": (("compile", "model.pt", "--input", "input=f[1]"), 2, "'f' is no dtype"),
    "input name": (("compile", "model.pt", "--input", "y=float32[b,16]"), 2, "'y'"),
    "input size": (("compile", "model.pt", "--input", "input=float32[b,9]"), 2, "fails on"),
    "dynamic": ((*QUICK, "--dynamic", "input=3"), 2, "write NAME:AXIS"),
    "dynamic axis": ((*QUICK, "--dynamic", "input:7"), 2, "axis 7 cannot be dynamic"),
    "verify no folder": (("verify", "nope"), 2, "Directory 'nope' does not exist"),
    "verify no onnx": (("verify", "done"), 2, "done: has no model.onnx"),
    "verify limit": (("verify", "done", "--max-loss", "1"), 2, "give --against"),
    "diff no file": (("diff", "nope.txt", "done"), 2, "cannot be read as a dump"),
    "diff no folder": (("diff", "done", "nope"), 2, "there is no such file or folder"),
    "diff state": (("diff", "done", "state.pt"), 2, "bare state dict"),
    "generate nothing": (("generate", "nope", "hi"), 2, "Directory 'nope' does not exist"),
    "generate no text": (("generate", "done", "hi"), 2, "there is no tokenizer.json"),
    "eval nothing": (("eval", "nope", "--text", "text.pt"), 2, "nope: "),
    "eval no decoder": (("eval", "done", "--text", "text.pt"), 2, "done: has no model.onnx"),
    "demo dims": (("demo", "--dims", "64,x", "-o", "demo"), 2, "dims"),
    "demo bits": (("demo", "--bits", "5", "-o", "demo"), 2, "'5' is not one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_input_is_refused_with_a_reason(case: str, folder: Path, capsys: Capture) -> None:
    args, code, message = REFUSED[case]
    before = sorted(folder.iterdir())
    assert run(args) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(message, err, re.DOTALL), err
    assert sorted(folder.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
@pytest.mark.parametrize("args", [QUICK, ("demo", "-o", "demo")])
def test_cuda_is_an_error_where_there_is_none(args: tuple[str, ...], capsys: Capture) -> None:
    assert run([*args, "--provider", "cuda"]) == 2
    assert "--provider cuda: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        "--bits 2 --group-size -1", "--bits 3 --group-size 48", "--bits 8 --symmetric",
        "--bits 4 --group-size 7", "--num-samples 1", "--dtype float16", "--exclude 0",
        "--runtime-scales never", "--seed 3",
    ],
)  # fmt: skip
def test_unusual_options(options: str, tmp_path: Path, capsys: Capture) -> None:
    args = [*QUICK, *options.split(), "--formats", "onnx,pt2", "-o", str(tmp_path / "out")]
    assert run([*args, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verify"]["comparisons"][0]["exact"]["rel"] < 3e-3
    assert run(["verify", str(tmp_path / "out")]) == 0


def test_nothing_to_quantize_is_said(tmp_path: Path, capsys: Capture) -> None:
    assert run([*QUICK, "--exclude", ".", "-o", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "warning: nothing is quantized" in err
    assert "excluded by the user" in out


@pytest.mark.parametrize("command", ["compile", "explain"])
def test_a_pattern_that_fits_nothing_stops_the_run(command: str, capsys: Capture) -> None:
    assert run([command, "model.pt", "--exclude", "4", "--exclude", "mlp.down"]) == 2
    err = capsys.readouterr().err
    assert "--exclude mlp.down matches no weight of model; the nearest names: " in err
    assert "0.weight" in err


def test_one_format_alone(tmp_path: Path, capsys: Capture) -> None:
    args = ("compile", "model.pt", "--calib", "data.npz", "--formats", "onnx")
    assert run([*args, "-o", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "model.pt2").exists()
    assert run(["verify", str(tmp_path / "out")]) == 2
    assert "has no model.pt2" in capsys.readouterr().err


def test_verify_with_and_without_the_original(tmp_path: Path, capsys: Capture) -> None:
    out = str(tmp_path / "out")
    assert run([*QUICK, "--formats", "onnx,pt2", "-o", out]) == 0
    capsys.readouterr()
    assert run(["verify", out]) == 0
    shown = capsys.readouterr().out
    assert "onnx in onnxruntime on cpu = quantized" in shown
    assert "original" not in shown
    against = ("--against", "model.pt", "--calib", "data.npz")
    assert run(["verify", out, *against, "--max-loss", "0.5"]) == 0
    assert "against the original: SQNR" in capsys.readouterr().out
    assert run(["verify", out, *against, "--max-loss", "0.0001"]) == 1
    assert "--max-loss allows 0.0001" in capsys.readouterr().err
    (tmp_path / "out" / "model.onnx").write_bytes(b"no model")
    assert run(["verify", out]) == 1
    assert "onnxruntime does not load it" in capsys.readouterr().err


def test_explain_leaves_out_what_is_excluded(capsys: Capture) -> None:
    assert run(["explain", "model.pt", "--json", "--exclude", "4"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [site["status"] for site in plan["sites"]] == ["refused", "foldable"]
    assert [entry["name"] for entry in plan["skipped"]] == ["4.weight"]


def test_a_recipe_repeats_a_compile_without_data(tmp_path: Path, capsys: Capture) -> None:
    again = str(tmp_path / "again")
    args = ("compile", "model.pt", "--recipe", "done/recipe.json", "--formats", "pt2")
    assert run([*args, "-o", again]) == 0
    capsys.readouterr()
    assert run(["diff", "done", again]) == 0
    assert capsys.readouterr().out == ""


def test_diff_shows_values(tmp_path: Path, capsys: Capture) -> None:
    other = str(tmp_path / "other")
    assert run([*QUICK, "--group-size", "16", "-o", other]) == 0
    capsys.readouterr()
    assert run(["diff", "done", other]) == 0
    assert "~ 4.weight.scale  f32[8, 1] -> f32[8, 4]" in capsys.readouterr().out


def test_dry_run_writes_nothing(folder: Path, capsys: Capture) -> None:
    before = sorted(folder.iterdir())
    assert run([*QUICK, "--dry-run"]) == 0
    assert f"would write {folder.resolve() / 'model-awq'}" in capsys.readouterr().out.replace(
        "\n", ""
    )
    assert run([*QUICK, "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 3
    assert sorted(folder.iterdir()) == before


def test_passes_are_listed_with_their_options(capsys: Capture) -> None:
    assert run(["passes"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}\n" in out for name in PASSES)
    assert "    grid=10\n" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_each_option(name: str, capsys: Capture) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert run([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert all(flag in out for flag in option.opts)


def test_version_and_help(capsys: Capture) -> None:
    assert run(["--version"]) == 0
    assert "awqc, version " in capsys.readouterr().out
    assert run([]) == 2
    assert "awqc demo" in capsys.readouterr().err
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
