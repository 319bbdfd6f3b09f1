"""Reports for a terminal."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rlhf_otel.checkpoints.changes import of_matrices
from rlhf_otel.checkpoints.comparison import Comparison
from rlhf_otel.checkpoints.findings import Finding
from rlhf_otel.checkpoints.inspection import Inspection
from rlhf_otel.checkpoints.measuring import Change
from rlhf_otel.checkpoints.naming import kind_of
from rlhf_otel.checkpoints.spectrum import Spectrum
from rlhf_otel.checkpoints.verdict import judgement, verdict
from rlhf_otel.checkpoints.weight_findings import Weight

WIDTH: Final = 110
MAX_KINDS: Final = 40
MAX_ALSO: Final = 6
MAX_ADAPTERS: Final = 10
MAX_STILL: Final = 8
"""Layers without a change that are named."""


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
    """Two checkpoints: whether to worry, then the layers and tensors that moved most."""
    said = verdict(found)
    parts = [
        headline(found.after),
        *_wrapped(f"Worry? {said.worry.capitalize()}: {said.reason}."),
        *_findings(found.after.findings),
        *_change(found.after),
        *_from_the_reference(found),
        *_moved_layers(found, top),
        *_moved_tensors(found, top),
        *_adapters(found.after, found.adapters_before),
    ]
    return "\n".join(parts) + "\n"


def _from_the_reference(found: Comparison) -> Iterator[str]:
    if found.reference is not None and found.reference_change is not None:
        yield f"From the reference {_shown(str(found.reference))}: {_numbers(found.reference_change)}."


def _moved_layers(found: Comparison, top: int) -> Iterator[str]:
    layers = [(name, change) for name, change in found.layers.items() if change.changed]
    if layers:
        yield from ["", f"{'layer':<48} {_COLUMNS}"]
        yield from (f"{_cut(name, 48):<48} {_drift(change, found.change)}" for name, change in layers[:top])
        yield from _left_out(len(layers), top, "layer")
    still = [name for name, change in found.layers.items() if not change.changed]
    if layers and still:
        more = f" and {len(still) - MAX_STILL} more" if len(still) > MAX_STILL else ""
        yield from _wrapped(f"did not change: {', '.join(still[:MAX_STILL])}{more}")


def _moved_tensors(found: Comparison, top: int) -> Iterator[str]:
    movers = [one for one in found.movers if one.change.changed]
    if movers:
        yield from ["", f"{'tensor':<64} {_COLUMNS}"]
        yield from (
            f"{_cut(one.tensor.name, 64):<64} {_drift(one.change, found.change)}" for one in movers[:top]
        )
        yield from _left_out(len(movers), top, "tensor")


def watched(found: Inspection) -> str:
    """One checkpoint of many: a line, and its findings."""
    drift = (
        f"; drift {found.drift:.3g} from {_shown(found.before.name)} ({judgement(of_matrices(found.moved))})"
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


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(_shown(text), WIDTH, break_on_hyphens=False)


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
        matrices = of_matrices(found.moved)
        said = f"of the matrices alone {matrices.drift:.3g} ({judgement(matrices)})"
        yield from _wrapped(f"From {found.before.name}: {_numbers(found.change)}; {said}{same}.")


def _numbers(change: Change) -> str:
    cosine = "" if change.cosine is None else f", cosine {change.cosine:.6f}"
    return f"relative drift {change.drift:.3g}{cosine}"


_COLUMNS: Final = f"{'drift':>10} {'cosine':>9} {'changed':>8} {'of the move':>11}"


def _drift(change: Change, total: Change) -> str:
    """Its own drift, the share of its numbers that changed, and its share in what all weights moved."""
    cosine = "" if change.cosine is None else f"{change.cosine:.5f}"
    share = f"{change.square / total.square:.1%}" if total.square else ""
    return f"{change.drift:>10.3g} {cosine:>9} {change.changed_ratio:>8.1%} {share:>11}"


def _left_out(count: int, top: int, what: str) -> list[str]:
    left = count - top
    return [f"... and {left} more {what}{'s' if left > 1 else ''}"] if left > 0 else []


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
    yield from _left_out(len(by_kind), MAX_KINDS, "kind")


def _adapters(found: Inspection, before: Mapping[str, Spectrum] | None = None) -> Iterator[str]:
    """Modules whose update B·A is largest, and what it was ``before``."""
    if not found.adapters:
        return
    ordered = sorted(found.adapters.items(), key=lambda item: -item[1].norm)
    was = f"{'norm was':>10} " if before else ""
    yield ""
    yield f"{'adapted module':<54} {was}{'norm':>10} {'spectral':>10} {'effective rank':>18}"
    for name, one in ordered[:MAX_ADAPTERS]:
        rank = f"{one.effective_rank:.1f} of {one.rank}"
        earlier = f"{_norm_of(before, name):>10} " if before else ""
        yield f"{_cut(name, 54):<54} {earlier}{one.norm:>10.3g} {one.spectral_norm:>10.3g} {rank:>18}"
    yield from _left_out(len(ordered), MAX_ADAPTERS, "module")


def _norm_of(spectra: Mapping[str, Spectrum], name: str) -> str:
    return f"{spectra[name].norm:.3g}" if name in spectra else ""
