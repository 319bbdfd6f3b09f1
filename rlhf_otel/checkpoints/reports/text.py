"""Reports for a terminal."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from rlhf_otel.checkpoints.comparison import Comparison
from rlhf_otel.checkpoints.findings import Finding
from rlhf_otel.checkpoints.inspection import Inspection
from rlhf_otel.checkpoints.measuring import Change
from rlhf_otel.checkpoints.naming import kind_of
from rlhf_otel.checkpoints.weight_findings import Weight

WIDTH: Final = 110
MAX_KINDS: Final = 40
MAX_ALSO: Final = 6
MAX_ADAPTERS: Final = 10


def inspected(found: Inspection) -> str:
    """One checkpoint."""
    parts = [
        headline(found),
        *_findings(found.findings),
        *_change(found),
        *_kinds(found.weights),
        *_adapters(found),
    ]
    return "\n".join(parts) + "\n"


def compared(found: Comparison, top: int) -> str:
    """Two checkpoints: verdict, layers and tensors that moved most."""
    parts = [headline(found.after), *_findings(found.after.findings), *_change(found.after)]
    if found.reference is not None and found.reference_change is not None:
        parts.append(
            f"From the reference {_shown(str(found.reference))}: {_in_words(found.reference_change)}."
        )
    layers = list(found.layers.items())
    parts += ["", f"{'layer':<48} {'drift':>10} {'cosine':>9}"]
    parts += [f"{_cut(name, 48):<48} {_drift(change)}" for name, change in layers[:top]]
    parts += _left_out(len(layers), top, "layers")
    movers = found.movers
    parts += ["", f"{'tensor':<64} {'drift':>10} {'cosine':>9}"]
    parts += [f"{_cut(one.tensor.name, 64):<64} {_drift(one.change)}" for one in movers[:top]]
    parts += [*_left_out(len(movers), top, "tensors"), *_adapters(found.after)]
    return "\n".join(parts) + "\n"


def watched(found: Inspection) -> str:
    """One checkpoint of many: a line, and its findings."""
    drift = (
        f"; drift {found.drift:.3g} from {_shown(found.before.name)}"
        if found.drift is not None and found.before
        else ""
    )
    return "\n".join([headline(found) + drift, *(_findings(found.findings) if found.findings else [])])


def headline(found: Inspection) -> str:
    """One line: what it is and how it is."""
    step = f", step {found.step}" if found.step is not None else ""
    speed = f"{found.bytes / 1e9:.3g} GB" if found.bytes >= 1e8 else f"{found.bytes / 1e6:.3g} MB"
    size = f"{len(found.weights)} tensors, {speed} in {found.seconds:.2g} s"
    return f"{_shown(found.path.name)}: health {found.health:.2f}{step}; {size}"


def _shown(text: str) -> str:
    """Names come from files: a control character must not reach the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _cut(name: str, width: int) -> str:
    name = _shown(name)
    return name if len(name) <= width else "..." + name[3 - width :]


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    by_kind: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.name].append(finding)
    if not findings:
        yield "No finding."
    for group in by_kind.values():
        yield ""
        yield from _finding(group)


def _finding(group: Sequence[Finding]) -> Iterator[str]:
    first = group[0]
    yield f"{first.severity.value.upper()} {first.name}: {_shown(first.where)}"
    yield f"  {first.kind.meaning}"
    yield from _field("why", first.evidence)
    yield from _field("to do", first.kind.advice)
    if len(group) > 1:
        more = f" and {len(group) - 1 - MAX_ALSO} more" if len(group) - 1 > MAX_ALSO else ""
        yield from _field("also", ", ".join(one.where for one in group[1 : 1 + MAX_ALSO]) + more)


def _field(label: str, content: str) -> Iterator[str]:
    text = f"{label:<7}{_shown(content)}"
    return iter(textwrap.wrap(text, WIDTH - 2, initial_indent="  ", subsequent_indent=" " * 9))


def _change(found: Inspection) -> Iterator[str]:
    if found.before is not None and found.moved:
        yield ""
        still = sum(not one.change.changed for one in found.moved)
        same = f"; {still} of {len(found.moved)} tensors did not change" if still else ""
        yield f"From {_shown(found.before.name)}: {_in_words(found.change)}{same}."


def _in_words(change: Change) -> str:
    cosine = "" if change.cosine is None else f", cosine {change.cosine:.6f}"
    return f"relative drift {change.drift:.3g}{cosine} ({_judgement(change)})"


def _judgement(change: Change) -> str:
    """Heuristic scale: what public RLHF runs do between checkpoints lies in the second row."""
    if not change.changed:
        return "nothing changed"
    for bound, said in ((1e-5, "hardly moved"), (0.03, "usual for fine-tuning"), (0.3, "a large move")):
        if change.drift < bound:
            return said
    return "a very large move: compare the learning rate and the loss"


def _drift(change: Change) -> str:
    cosine = "" if change.cosine is None else f"{change.cosine:.5f}"
    return f"{change.drift:>10.3g} {cosine:>9}"


def _left_out(count: int, top: int, what: str) -> list[str]:
    return [f"... and {count - top} more {what}"] if count > top else []


def _kinds(weights: Sequence[Weight]) -> Iterator[str]:
    """A row for each kind of tensor: of its layers the extremes."""
    by_kind: defaultdict[str, list[Weight]] = defaultdict(list)
    for weight in weights:
        by_kind[kind_of(weight.name)].append(weight)
    yield ""
    yield f"{'kind':<52} {'type':>5} {'n':>4} {'RMS from':>9} {'to':>9} {'largest':>9} {'zeros':>7}"
    for kind, group in list(by_kind.items())[:MAX_KINDS]:
        rms = [weight.moments.rms for weight in group]
        largest = max(weight.moments.largest for weight in group)
        zeros = sum(weight.moments.zeros for weight in group) / max(
            1, sum(weight.moments.size for weight in group)
        )
        types = "/".join(sorted({weight.tensor.dtype.name for weight in group}))
        numbers = f"{len(group):>4} {min(rms):>9.3g} {max(rms):>9.3g} {largest:>9.3g} {zeros:>7.2%}"
        yield f"{_cut(kind, 52):<52} {types:>5} {numbers}"
    yield from _left_out(len(by_kind), MAX_KINDS, "kinds")


def _adapters(found: Inspection) -> Iterator[str]:
    """Modules whose update is largest."""
    if not found.adapters:
        return
    ordered = sorted(found.adapters.items(), key=lambda item: -item[1].norm)
    yield ""
    yield f"{'adapted module':<64} {'norm':>10} {'spectral':>10} {'effective rank':>18}"
    for name, one in ordered[:MAX_ADAPTERS]:
        rank = f"{one.effective_rank:.1f} of {one.rank}"
        yield f"{_cut(name, 64):<64} {one.norm:>10.3g} {one.spectral_norm:>10.3g} {rank:>18}"
    yield from _left_out(len(ordered), MAX_ADAPTERS, "modules")
