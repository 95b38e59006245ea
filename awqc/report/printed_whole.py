"""What became of a model of several graphs as a whole, in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from awqc.report.wording import byte_count


def print_parts(
    parts: Mapping[str, dict[str, Any]],
    show: Callable[[dict[str, Any], Console], None],
    out: Console,
) -> None:
    """Each of ``parts`` under its name, as ``show`` prints one."""
    for name, part in parts.items():
        out.rule(name)
        show(part, out)


def print_whole(report: Mapping[str, Any], out: Console) -> None:
    """Sizes of all parts together, and what the whole gives beside the original."""
    sizes = [part["size"] for part in report["parts"].values()]
    was, now = (sum(size[key] for size in sizes) for key in ("original_bytes", "quantized_bytes"))
    out.print(
        f"size: {byte_count(was)} -> {byte_count(now)}, {was / max(now, 1):.2f} times smaller"
    )
    print_answers(report, out)


def print_answers(report: Mapping[str, Any], out: Console) -> None:
    """What the whole gives beside the original."""
    if made := report.get("generated"):
        _print_generated(made, out)
    if ran := report.get("run"):
        _print_run(ran, out)


def _print_generated(made: Mapping[str, Any], out: Console) -> None:
    out.print(
        f"generated: the same tokens as the original for {made['same']} of {made['samples']} "
        f"samples; word error rate against it {100 * made['word_error_rate']:.1f} %"
    )
    for pair in made["texts"]:
        if pair["compiled"] != pair["original"]:
            out.print(Text(f"  original: {pair['original']}\n  compiled: {pair['compiled']}"))


def _print_run(ran: Mapping[str, Any], out: Console) -> None:
    """What a run returned with the compiled parts, against what it did with the original's."""
    told = "run with the compiled parts, against the original"
    out.print(f"{told}: {'; '.join(_said(ran)) or 'nothing'}")
    if held := ran.get("same_choices"):
        out.print(Text(f"{told}, with its choices: {'; '.join([*_said(held), *_choices(held)])}"))


def _choices(held: Mapping[str, Any]) -> list[str]:
    """What the original's choices took the place of."""
    said = [f"{held['chosen_otherwise']} of {held['calls']} calls were given other choices"]
    if answers := held["answers_of_the_original"]:
        said.append(f"the original's answers of {', '.join(answers)}")
    return said


def _said(ran: Mapping[str, Any]) -> list[str]:
    """How far images, other results and texts are from the original's."""
    outputs = ran["outputs"].values()
    said = []
    images = [gap["psnr_db"] for gap in outputs if "psnr_db" in gap]
    if images:
        worst = min((value for value in images if value is not None), default=None)
        told = "equal" if worst is None else f"PSNR {worst:.1f} dB at least"
        said.append(f"{len(images)} images, {told}")
    if others := [gap for gap in outputs if "psnr_db" not in gap]:
        worst = min((g["sqnr_db"] for g in others if g["sqnr_db"] is not None), default=None)
        told = "equal" if worst is None else f"SQNR {worst:.1f} dB at least"
        said.append(f"{len(others)} results, {told}, cosine {min(g['cosine'] for g in others):.6f}")
    if ran.get("texts"):
        said.append(
            f"the same text for {ran['same']} of {ran['texts']}, word error rate "
            f"{100 * ran['word_error_rate']:.1f} %"
        )
    if ran["of_another_size"]:
        said.append(f"{ran['of_another_size']} results of another size")
    return said
