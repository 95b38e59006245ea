"""Whether passes stand in an order in which each finds what it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from awqc.errors import UsageError
from awqc.findings import NO_FACTS, Fact, Facts
from awqc.passes.base import Pass
from awqc.passes.spelling import spell, spell_all


def check_order(passes: Sequence[Pass], givers: Sequence[Pass], facts: Facts = NO_FACTS) -> Facts:
    """What holds after ``passes``, where ``facts`` hold before them.

    ``givers`` are passes with the options under which they give most, one of which a message
    proposes where a fact is missing.

    Raises:
        UsageError: a pass needs what nothing before it gives, or comes after what it bars.
    """
    start = facts
    for place, step in enumerate(passes):
        if not fits(step, facts):
            before = passes[:place]
            proposed = next(
                (found for found in _orders(before, step, givers, facts) if works(found, start)),
                None,
            )
            raise UsageError(_explain(before, step, givers, facts, proposed))
        facts = after(step, facts)
    return facts


def fits(step: Pass, facts: Facts) -> bool:
    """Whether ``step`` may run where ``facts`` hold."""
    return step.needs <= facts and not step.bars & facts


def after(step: Pass, facts: Facts) -> Facts:
    """What holds after ``step``."""
    return (facts - step.ends) | step.gives


def works(passes: Iterable[Pass], facts: Facts) -> bool:
    """Whether all ``passes`` may run in this order, from ``facts`` on."""
    for step in passes:
        if not fits(step, facts):
            return False
        facts = after(step, facts)
    return True


def _explain(
    before: Sequence[Pass],
    step: Pass,
    givers: Sequence[Pass],
    facts: Facts,
    proposed: Sequence[Pass] | None,
) -> str:
    """Names the pass, what it needs, what gives that, and what to write."""
    missing = _first(step.needs - facts)
    if missing is not None:
        giver = next(each for each in givers if missing in each.gives)
        told = f"{step.name} needs {missing}, which {_spell_for(giver, missing)} gives"
        other = _ender(missing, before)
        if other is not None:
            told += f" and {other.name} ends"
    else:
        barred = _first(step.bars & facts)
        other = next((each for each in reversed(before) if barred in each.gives), None)
        told = f"{step.name} cannot run where there are {barred}"
        told += ", which the program has" if other is None else f", which {other.name} gives"
    if other is not None and other.name == step.name:
        return f"{told}: leave one {step.name} out"
    if proposed is not None:
        return f"{told}: write {spell_all(proposed)}"
    if other is None:
        return f"{told}: leave {step.name} out"
    return f"{told}: put {other.name} behind {step.name}"


def _ender(fact: Fact, passes: Sequence[Pass]) -> Pass | None:
    """The pass after which ``fact``, which held before it, no longer does."""
    held, ender = False, None
    for step in passes:
        if fact in step.gives:
            held = True
        elif held and fact in step.ends:
            held, ender = False, step
    return ender


def _first(facts: Facts) -> Fact | None:
    """The first in the order in which facts come about."""
    return next((fact for fact in Fact if fact in facts), None)


def _spell_for(giver: Pass, fact: Fact) -> str:
    """``giver``, with its options where it would not give ``fact`` without them."""
    return giver.name if fact in type(giver)().gives else spell(giver)


def _orders(
    before: Sequence[Pass], step: Pass, givers: Sequence[Pass], facts: Facts
) -> Iterator[list[Pass]]:
    """Orders up to ``step`` that may be what was meant, likely ones first."""
    lacking = [each for each in givers if each.gives & (step.needs - facts)]
    for giver in lacking:
        for place, each in enumerate(before):
            if type(each) is type(giver):
                yield [*before[:place], _with_options(each, giver), *before[place + 1 :], step]
    yield [*before, *_leading_to(step, givers, facts), step]
    for ender in givers:
        if ender.ends & step.bars & facts:
            yield [*before, *_leading_to(ender, givers, facts), ender, step]
    for place in range(len(before) - 1, -1, -1):
        yield [*before[:place], step, *before[place:]]


def _leading_to(step: Pass, givers: Sequence[Pass], facts: Facts) -> list[Pass]:
    """The passes that give what ``step`` lacks, and those what they lack."""
    others = [each for each in givers if type(each) is not type(step)]
    found: list[Pass] = []
    while missing := step.needs - facts:
        giver = max(others, key=lambda each: len(each.gives & missing))
        if not giver.gives & missing:
            break
        lead = [*_leading_to(giver, givers, facts), giver]
        for each in lead:
            facts = after(each, facts)
        found += lead
    return found


def _with_options(step: Pass, giver: Pass) -> Pass:
    """``step`` with those options of ``giver`` that are not their defaults."""
    assert dataclasses.is_dataclass(step)
    plain = type(giver)()
    wanted = {
        option.name: getattr(giver, option.name)
        for option in dataclasses.fields(step)
        if getattr(giver, option.name) != getattr(plain, option.name)
    }
    changed = dataclasses.replace(step, **wanted)
    assert isinstance(changed, Pass)
    return changed
