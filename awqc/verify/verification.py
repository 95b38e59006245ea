"""Compare the original, the quantized and the exported model, in numbers.

Three questions, each with its meaning: is the exporter right (exported at the exact level
against quantized: rounding only)? What will a default session give (the same at the
runtime's default level)? What did quantization cost (quantized against original)?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awqc.errors import CalibrationError, VerificationError, spelled
from awqc.program import Batch, Program
from awqc.runtimes.onnxruntime import DEFAULT, EXACT, Provider, Session
from awqc.verify.text_quality import TextQuality

EXACT_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 6e-2}
"""Largest relative L2 difference between exported and quantized that counts as rounding.

In float32 two backends that add in another order differ by 1e-6 a product, which deep
networks amplify (7e-5 was seen on a 30-layer decoder); in half precision the unit of
rounding is 5e-4 (float16) and 4e-3 (bfloat16), times the same growth.
"""
DEFAULT_WARNING = 0.05
CHUNK = 2**20
"""Elements that are compared at once, in float64."""

MAX_REFERENCE_ELEMENTS = 40_000_000


@dataclass
class Gap:
    """How far one set of outputs is from another, gathered over batches.

    Attributes:
        max_abs: largest absolute difference.
        signal: sum of squares of the reference.
        noise: sum of squares of the difference.
    """

    max_abs: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    _dot: float = 0.0
    _size: float = 0.0
    _agree: int = 0
    _asked: int = 0
    _finite: bool = True

    def add(self, now: Tensor, reference: Tensor, mask: Tensor | None = None) -> None:
        """Take one output in; ``mask`` marks the tokens that count."""
        now, reference = now.detach(), reference.detach()
        if now.shape != reference.shape:
            raise VerificationError(
                f"an output has shape {tuple(now.shape)}, the reference {tuple(reference.shape)}"
            )
        if mask is not None and reference.shape[: mask.ndim] == mask.shape:
            now, reference = now[mask], reference[mask]
        width = reference.shape[-1] if reference.ndim > 1 else 1
        if now.numel() == 0:
            return
        rows = max(1, CHUNK // width)
        parts = zip(
            now.reshape(-1, width).split(rows),
            reference.reshape(-1, width).split(rows),
            strict=True,
        )
        for part, wanted in parts:
            self._add(part.double(), wanted.double())

    def _add(self, now: Tensor, reference: Tensor) -> None:
        """Take in rows, in float64."""
        # Where the reference is not finite there is nothing to compare.
        same = torch.isnan(reference) | (torch.isinf(reference) & (now == reference))
        self._finite &= bool((torch.isfinite(now) | same).all())
        now, reference = (
            torch.where(same, 0, value).nan_to_num(posinf=0, neginf=0) for value in (now, reference)
        )
        difference = now - reference
        self.max_abs = max(self.max_abs, float(difference.abs().max()))
        self.signal += float(reference.square().sum())
        self.noise += float(difference.square().sum())
        self._dot += float((now * reference).sum())
        self._size += float(now.square().sum())
        if now.shape[-1] > 1:
            same = now.argmax(-1) == reference.argmax(-1)
            self._agree += int(same.sum())
            self._asked += same.numel()

    @property
    def finite(self) -> bool:
        """Whether no NaN or infinity came that the reference has not."""
        return self._finite

    @property
    def rel(self) -> float:
        """``|now - reference| / |reference|`` in the L2 norm."""
        if not self._finite:
            return math.inf
        if self.signal == 0:
            return 0.0 if self.noise == 0 else math.inf
        return math.sqrt(self.noise / self.signal)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise, in dB; None where there is no noise at all."""
        return None if self.rel == 0 else -20 * math.log10(self.rel)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two, over all elements."""
        size = math.sqrt(self._size * self.signal)
        return self._dot / size if size > 0 else float(self.noise == 0)

    @property
    def argmax_agreement(self) -> float | None:
        """Share of rows whose largest element is the same; None where outputs have no rows."""
        return self._agree / self._asked if self._asked else None


@dataclass(frozen=True)
class Verification:
    """What was measured; the keys of ``verify`` in report.json.

    Attributes:
        export_exact: exported against quantized, computing in float32.
        export_default: exported, in a session that sets nothing, against quantized.
        original: quantized against original.
        exported_original: exported, in a session that sets nothing, against original.
        provider: where onnxruntime ran.
        fused_kernels: low-bit kernels in the model as onnxruntime runs it.
        unfused: quantized weights of matrix products that are dequantized at each run.
        dequantized: quantized weights of other operations (convolutions), likewise.
        batches: held-out batches that were compared.
        ort: of onnxruntime's own form: ``exact`` and ``written`` (at the levels that it
            holds) against quantized; what `awqc.export.ort_report.describe_ort` tells.
        text: perplexity, KL divergence and top-1 agreement of language models, by form.
        notes: what the user should know.
    """

    export_exact: dict[str, float] | None
    export_default: dict[str, float] | None
    original: dict[str, float | None]
    exported_original: dict[str, float | None] | None
    provider: str | None
    fused_kernels: int
    unfused: list[str]
    dequantized: list[str]
    batches: int
    text: dict[str, Any] | None
    notes: list[str]
    ort: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """Outputs of the original model on held-out batches.

    Attributes:
        batches: the inputs.
        outputs: the outputs for each batch.
    """

    batches: tuple[Batch, ...]
    outputs: tuple[tuple[Tensor, ...], ...]


def take_reference(program: Program, batches: Sequence[Batch]) -> Reference:
    """Run the original on as many batches as fit into memory, at least one.

    Raises:
        CalibrationError: the model fails on a batch.
    """
    taken: list[Batch] = []
    outputs: list[tuple[Tensor, ...]] = []
    elements = 0
    for batch in batches:
        if taken and elements >= MAX_REFERENCE_ELEMENTS:
            break
        taken.append(batch)
        outputs.append(_run(program, batch))
        elements += sum(value.numel() for value in outputs[-1])
    return Reference(tuple(taken), tuple(outputs))


def _run(program: Program, batch: Batch) -> tuple[Tensor, ...]:
    try:
        return program.run(batch)
    except (IndexError, RuntimeError, ValueError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        raise CalibrationError(
            f"{program.name} fails on a calibration batch with {shapes}: {error}; "
            "give data that the model takes, with calib"
        ) from error


def verify(
    program: Program,
    reference: Reference,
    onnx_path: Path | None,
    provider: Provider = "auto",
    ort_path: Path | None = None,
) -> Verification:
    """Measure all gaps on the reference's batches.

    ``program`` is the quantized program; ``onnx_path`` its export, or None if there is none,
    and ``ort_path`` the form that is onnxruntime's own, which stands in for a missing export.
    """
    main = onnx_path or ort_path
    sessions = _sessions(main, ort_path, provider)
    gaps = {key: Gap() for key in ("original", "exported_original", *sessions)}
    texts: dict[str, TextQuality] = {}
    for batch, wanted in zip(reference.batches, reference.outputs, strict=True):
        mask = batch[program.mask_input].bool() if program.mask_input else None
        quantized = program.run(batch)
        _gather(program, gaps["original"], quantized, wanted, mask, states=False)
        _read(program, texts, "original", wanted, batch, None)
        _read(program, texts, "quantized", quantized, batch, wanted)
        for key, session in sessions.items():
            exported = session.run(batch)
            _gather(program, gaps[key], exported, quantized, mask, states=True)
            _read(program, texts, f"exported_{key}", exported, batch, wanted)
            if key == "default":
                _gather(program, gaps["exported_original"], exported, wanted, mask, states=False)
    fusion = _fusion(main, sessions)
    return Verification(
        export_exact=_small(gaps["exact"]) if sessions else None,
        export_default=_small(gaps["default"]) if sessions else None,
        original=_full(gaps["original"]),
        exported_original=_full(gaps["exported_original"]) if sessions else None,
        provider=sessions["exact"].provider if sessions else None,
        fused_kernels=fusion[0],
        unfused=fusion[1],
        dequantized=fusion[2],
        batches=len(reference.batches),
        text={name: score.as_dict() for name, score in texts.items()} or None,
        notes=_notes(gaps),
        ort=None if ort_path is None else _ort(ort_path, gaps),
    )


def _sessions(
    path: Path | None, ort_path: Path | None, provider: Provider
) -> dict[str, Session]:
    """The export, and onnxruntime's own form where it is another file, at both levels."""
    sessions: dict[str, Session] = {}
    if path is not None:
        sessions["exact"] = Session(path, provider, EXACT)
        sessions["default"] = Session(path, provider, DEFAULT)
    if ort_path is not None and ort_path != path:
        sessions["ort_exact"] = Session(ort_path, provider, EXACT)
        sessions["ort"] = Session(ort_path, provider, DEFAULT)
    return sessions


def _ort(path: Path, gaps: dict[str, Gap]) -> dict[str, Any]:
    from awqc.export.ort_report import describe_ort

    exact, written = (
        _small(gaps.get(key, gaps[instead]))
        for key, instead in (("ort_exact", "exact"), ("ort", "default"))
    )
    return {"exact": exact, "written": written, **describe_ort(path)}


def _fusion(path: Path | None, sessions: dict[str, Session]) -> tuple[int, list[str], list[str]]:
    if path is None:
        return 0, [], []
    from awqc.verify.fusion import fused_kernels

    providers = ["CPUExecutionProvider"]
    if sessions["exact"].provider == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    report = fused_kernels(path, providers)
    return report.count, list(report.unfused), list(report.other)


def _gather(
    program: Program,
    gap: Gap,
    now: Sequence[Tensor],
    wanted: Sequence[Tensor],
    mask: Tensor | None,
    states: bool,
) -> None:
    """Add all floating outputs; carried states, which folds may scale, only if ``states``."""
    carried = program.scaled_outputs()
    for name, value, reference in zip(program.outputs, now, wanted, strict=True):
        if reference.is_floating_point() and (states or name not in carried):
            gap.add(value, reference, mask)


def _read(
    program: Program,
    texts: dict[str, TextQuality],
    form: str,
    outputs: Sequence[Tensor],
    batch: Batch,
    reference: Sequence[Tensor] | None,
) -> None:
    """Judge the logits of a decoder against the text that it read."""
    ids = batch.get("input_ids")
    if ids is None or not program.head_outputs or not program.states:
        return
    index = program.outputs.index(program.head_outputs[0])
    mask = batch[program.mask_input] if program.mask_input else torch.ones_like(ids)
    mask = mask[:, mask.shape[1] - ids.shape[1] :]  # it covers a past as well, which comes first
    texts.setdefault(form, TextQuality()).add(
        outputs[index], ids, mask, None if reference is None else reference[index]
    )


def _small(gap: Gap) -> dict[str, float]:
    return {"max_abs": gap.max_abs, "rel": gap.rel}


def _full(gap: Gap) -> dict[str, float | None]:
    return {
        "sqnr_db": gap.sqnr_db,
        "rel": gap.rel,
        "cosine": gap.cosine,
        "max_abs": gap.max_abs,
        "argmax_agreement": gap.argmax_agreement,
    }


def _notes(gaps: dict[str, Gap]) -> list[str]:
    notes = []
    if "default" in gaps and gaps["default"].rel > DEFAULT_WARNING:
        notes.append(
            f"a session that sets nothing computes with int8 activations and is off by "
            f"{gaps['default'].rel:.1%}; set session.qdq_matmulnbits_accuracy_level to 1 "
            "for float32 products"
        )
    if gaps["original"].rel > 0.5:
        notes.append(
            f"the quantized outputs differ from the original's by {gaps['original'].rel:.0%}: "
            "little is left of the model; use more bits or smaller groups"
        )
    return notes


def check(
    verification: Verification, dtype: torch.dtype, max_loss: float | None, name: str
) -> None:
    """Refuse what must not be published.

    Raises:
        VerificationError: exported and quantized disagree, outputs are not finite, or the
            loss against the original, its ``rel``, is beyond ``max_loss``.
    """
    limit = EXACT_TOLERANCE[dtype]
    forms = {
        "exported model": verification.export_exact,
        "ort form": verification.ort and verification.ort["exact"],
    }
    for form, exact in forms.items():
        if exact is None or exact["rel"] <= limit:
            continue
        raise VerificationError(
            f"{name}: the {form} differs from the quantized one by {exact['rel']:.2g} "
            f"(relative, at the exact level); rounding explains {limit:g}. "
            "If its files were changed since the compile, compile again; else please report it"
        )
    loss = verification.original["rel"]
    if loss is None or not math.isfinite(loss):
        raise VerificationError(
            f"{name}: the quantized model gives NaN or infinite outputs where the original "
            f"does not; use more bits, or leave layers out with {spelled('exclude')}"
        )
    if max_loss is not None and loss > max_loss:
        raise VerificationError(
            f"{name}: the loss against the original is {loss:.4g} (relative output error), "
            f"{spelled('max_loss')} allows {max_loss:g}; use more bits, smaller groups, more "
            f"calibration data, or leave the worst layers out with {spelled('exclude')}"
        )
