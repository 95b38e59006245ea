"""What a compile will need, from its arguments."""

from __future__ import annotations

from collections.abc import Callable

from awqc.data.calibration import CalibrationData
from awqc.data.load import Calib, DataSource
from awqc.machine.memory import trim
from awqc.options import Options
from awqc.options.values import parse_size
from awqc.passes.convert_dtype import DTYPES, is_mixed
from awqc.passes.pipeline import Pipeline
from awqc.passes.planning import Plan, plan_ahead
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.passes.tune_scales import TuneScales
from awqc.program import Program
from awqc.sources.opening import ModelLike
from awqc.stages.asked import load_data, open_as_asked, prepare, widen


def foresee(model: ModelLike, calib: Calib | None, options: Options) -> Plan:
    """What a compile of ``model`` will need; raises what `compile` raises of its arguments."""
    prepare(options)
    source = DataSource.of(calib)
    program = open_as_asked(model, None, source, options)
    return foresee_program(program, lambda: load_data(program, source, options), options)


def foresee_program(
    program: Program, data: Callable[[], CalibrationData], options: Options
) -> Plan:
    """What a compile of ``program``, which is consumed, on ``data`` will need."""
    pipeline = prepare(options)[0].in_dtype(
        program.source_dtype, DTYPES.get(options.dtype), is_mixed(program)
    )
    body, _ = widen(program, options, pipeline, None)
    return plan_of(program, body, data(), options)


def plan_of(program: Program, body: Pipeline, data: CalibrationData, options: Options) -> Plan:
    """What the compile will need."""
    specs = [step.spec for step in body.passes if isinstance(step, QuantizeWeights)]
    tunes = any(isinstance(step, TuneScales) for step in body.passes)
    trim()  # what is free now is no part of the need
    return plan_ahead(
        program, data.batches, (specs or [program.quantization])[0], tunes, memory_limit(options)
    )


def memory_limit(options: Options) -> int | None:
    """Bytes that were asked for, if any."""
    return None if options.memory is None else parse_size(options.memory)
