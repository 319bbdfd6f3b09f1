"""The report on slow steps for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rlhf_otel.catalogue.spans import PHASE_BY_NAME, Scope
from rlhf_otel.slow_steps.explanation import Explanation
from rlhf_otel.slow_steps.reading import Steps

PHASES_SHOWN: Final = 3
STALLS_SHOWN: Final = 5
WORTH_NAMING: Final = 0.05
"""Share of a step's excess below which a phase is not named."""


def report(found: Steps, explained: Sequence[Explanation], slowest: int) -> str:
    """The slowest steps, each with the phases that made it slow, on every rank that is known."""
    ranks = {step.rank for step in found.steps}
    lines = [f"{_count(len(found.steps), 'step')} of {_count(len(ranks), 'rank')}"]
    if found.run_id:
        lines[0] += f", run {found.run_id}"
    if found.incomplete:
        named = ", ".join(str(rank) for rank in sorted(found.incomplete))
        lines.append(
            f"Of rank {named} only the kept steps are known, so that the usual is that of kept steps."
        )
    lines += [f"{sentence}." for sentence in found.waste]
    lines += found.stalls[-STALLS_SHOWN:]
    several = len(ranks) > 1
    for ranks_of_step in _by_step(explained)[:slowest]:
        lines.append("")
        for one in ranks_of_step:
            lines += _step(one, several)
    return "\n".join(lines) + "\n"


def _by_step(explained: Sequence[Explanation]) -> list[list[Explanation]]:
    """Steps in the order given; of a step's ranks those first whose own work took longer: the others wait for them."""
    steps: dict[int, list[Explanation]] = {}
    for one in explained:
        steps.setdefault(one.step.step, []).append(one)
    return [sorted(ranks, key=_waited) for ranks in steps.values()]


def _waited(one: Explanation) -> bool:
    """Whether most of what a step took too long went to a phase in which ranks wait for each other."""
    return bool(one.phases) and _is_collective(one.phases[0][0])


def _is_collective(name: str) -> bool:
    phase = PHASE_BY_NAME.get(name.partition(" ")[0])
    return phase is not None and phase.scope is Scope.COLLECTIVE


def _step(one: Explanation, several: bool) -> Iterator[str]:
    step = one.step
    where = f" on rank {step.rank}" if several else ""
    why = [*step.anomalies, *([step.kept_because] if step.kept_because else [])]
    yield (
        f"step {step.step}{where} ({step.kind}): {_time(step.duration_us)}, usually {_time(one.usual_us)}"
        f"{_times(step.duration_us, one.usual_us)}{f'  [{chr(44).join(why)}]' if why else ''}"
    )
    excess = [row for row in one.phases if row[1] - row[2] > WORTH_NAMING * max(one.excess_us, 0.0)]
    for name, spent, usual in excess[:PHASES_SHOWN]:
        waits = "; ranks wait for each other in it" if several and _is_collective(name) else ""
        yield f"  {name:<32} {_time(spent):>9}, usually {_time(usual):>9}  (+{_time(spent - usual)}{waits})"
    if not excess:
        yield "  no phase took longer than usual"
    if step.profile:
        yield f"  profile: {step.profile}"


def _times(spent: float, usual: float) -> str:
    return f" ({spent / usual:.1f} times)" if usual > 0 else ""


def _time(microseconds: float) -> str:
    if microseconds >= 1e6:
        return f"{microseconds / 1e6:.2f} s"
    return f"{microseconds / 1e3:.1f} ms"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
