"""Rules about a run that does not get on: it failed, it stalls, or a process of it is gone.

What tells them apart is how a scrape fails. A stopped process, one that holds the interpreter's lock and a lost node
let Prometheus wait until its timeout; a killed one refuses at once, or its target is taken away.

Whichever of them pages first stands for the run: a hanging run that is killed in the end, a lost node whose target
goes later, and a rank that is killed after another one failed are no second page. So each looks whether the others fire
(``ALERTS``), and has one alert a run. What a killed rank does to the others, an error of a collective or a hang, is left
to the page about it.
"""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import PromQL, Rule, RuleClass, Severity

PLACE: Final = "instance, job, pod, container, endpoint"
"""Labels that say where a rank runs: they differ from rank to rank, and change when a run goes on elsewhere."""

_PROGRESS: Final = "rlhf_last_progress_timestamp_seconds"
_THRESHOLD: Final = "rlhf_stall_threshold_seconds"

_LAST: Final = f"max without ({PLACE}) (last_over_time({_PROGRESS}[2h]))"
"""Last progress of each rank, however long ago it was scraped."""

_REPLACED: Final = f"""(
    max by (run_id, rank) (last_over_time({_PROGRESS}[2h])) + 60
      < on (run_id) group_left () max by (run_id) (last_over_time(rlhf_process_start_time_seconds{{rank="0"}}[2h]))
  )"""
"""Ranks of an earlier attempt that a later one does without: the run was started again with fewer."""


def _ended(labels: str) -> str:
    """Runs, or ranks, that have said how they ended, and have not gone on since."""
    return (
        f"(\n    max by ({labels}) (last_over_time(rlhf_run_end_timestamp_seconds[2h]))\n"
        f"      >= max by ({labels}) (last_over_time({_PROGRESS}[2h]))\n  )"
    )


def _firing(rule: str) -> str:
    return f'ALERTS{{alertname="RLHF{rule}", alertstate="firing"}}'


def _silent(refused: str) -> str:
    """Ranks that are nowhere scraped, since their targets let Prometheus wait; ``refused`` says for how long."""
    return (
        "(\n    max by (run_id, rank) (\n"
        f"      last_over_time({_PROGRESS}[2h])\n"
        f"        and on (job, instance) (scrape_duration_seconds >= $patience and {refused})\n"
        f"    )\n    unless on (run_id, rank) {_PROGRESS}\n  )"
    )


_SILENT: Final = _silent("up == 0 and up offset $scrape == 0")
"""For two scrapes: one may fail."""
_LONG_SILENT: Final = _silent("max_over_time(up[$window]) == 0 and up offset $window == 0")
"""As long as a rank must be missing to count as gone."""

_FAILED: Final = (
    f'max without (rank, {PLACE}) (last_over_time(rlhf_run_end_timestamp_seconds{{outcome="failed"}}[$known]))\n'
    "  >= on (run_id) group_left ()\n"
    f"max by (run_id) (last_over_time({_PROGRESS}[$known]))"
)
"""Runs that said so, and have not gone on since."""

_GONE: Final = (
    f"{_LAST}\n"
    f"  unless on (run_id, rank) {_PROGRESS}\n"
    f"  unless on (run_id, rank) {_ended('run_id, rank')}\n"
    f"  unless on (run_id, rank) {_REPLACED}\n"
    f"  unless on (run_id, rank) ({_SILENT} unless on (run_id) {_firing('RunGone')})"
)
"""Ranks whose series ended without a word, and whose targets refuse or are no more. One that refused, paged, and now
lets Prometheus wait, as the address of a pod does that is taken away, is gone all the same."""

_STALLED: Final = (
    "# answers, and had no step for too long when it was last scraped\n"
    f"  min without ({PLACE}) (timestamp({_PROGRESS}) - {_PROGRESS})\n"
    f"    > max without ({PLACE}) ({_THRESHOLD})\n"
    "  or\n"
    "  # keeps scrapes waiting, or this fires already: no step for too long until now\n"
    f"  (time() - {_LAST}\n"
    f"    > max without ({PLACE}) (last_over_time({_THRESHOLD}[2h])))\n"
    f"  and on (run_id) ({_SILENT} or {_firing('RunStalled')})\n"
    "  or\n"
    "  # keeps scrapes waiting for as long as a rank must be missing to be gone\n"
    f"  time() - {_LAST}\n"
    f"  and on (run_id, rank) {_LONG_SILENT}"
)
"""Ranks without a step for too long: as of their last scrape, where they answer, so that nobody stalls while
Prometheus is away; or, where they do not, or this has paged and they were killed since, as of now; or silent for long,
whatever their steps take."""

_OPEN: Final = "rlhf_open_phase_seconds{run_id=%q}"
_USUAL: Final = (
    "{{ with printf \"last_over_time(rlhf_signal_baseline{run_id=%q,signal='step_duration'}[2h])\" $labels.run_id"
    ' | query }}; a step usually takes {{ . | first | value | printf "%.3g" }} s{{ end }}'
)
_SILENT_RANKS: Final = (
    f"bottomk(1, last_over_time({_PROGRESS}{{run_id=%q}}[2h]) and on (job, instance) (up == 0)"
    f" unless on (rank) {_PROGRESS}{{run_id=%q}})"
)
"""The rank that has been silent for longest, with its address."""
_LAST_PHASE: Final = (
    "bottomk(1, time() - max_over_time(timestamp(rlhf_open_phase_seconds{run_id=%q,rank=%q})[1h:1s]))"
)
"""What a silent rank was in when it was last scraped, and how long ago that was."""
_TELLING: Final = " or on () ".join(
    f"topk(1, {ranks})"
    for ranks in (
        f"{_OPEN} and on (rank) (irate(rlhf_phase_seconds_total{{run_id=%q,scope='local'}}[5m]) > 0.9)",
        f"{_OPEN} and on (phase) (count by (phase) ({_OPEN}) < scalar(max(count by (phase) ({_OPEN}))))",
        _OPEN,
    )
)
"""The rank that the others wait for: one that spends its time in a phase which waits for nobody, or else is in another one
than most, or else has been in its phase for longest."""


def _asked(query: str) -> str:
    """A template's pipeline that asks Prometheus; every ``%q`` is the run."""
    return f'printf "{query}"' + " $labels.run_id" * query.count("%q") + " | query"


def _told(silent: str, answers: str, otherwise: str) -> str:
    """A template: of the silent rank, else of the one that the others wait for, else where neither is known."""
    return (
        f"{{{{ with {_asked(_SILENT_RANKS)} }}}}{silent}"
        f"{{{{ else }}}}{{{{ with {_asked(_TELLING)} }}}}{answers}"
        f"{{{{ else }}}}{otherwise}{{{{ end }}}}{{{{ end }}}}"
    )


_RANK: Final = 'rank {{ . | first | label "rank" }}'
_OBSERVED: Final = (
    _told(
        f"{_RANK} does not answer: it is stopped, holds the interpreter's lock, or its node is lost"
        f'{{{{ with printf "{_LAST_PHASE}" $labels.run_id (. | first | label "rank") | query }}}}'
        '; it was in {{ . | first | label "phase" }} {{ . | first | value | printf "%.0f" }} s ago{{ end }}',
        f'{_RANK} has been in {{{{ . | first | label "phase" }}}} for {{{{ . | first | value | printf "%.0f" }}}} s',
        'no step for {{ $value | printf "%.0f" }} s',
    )
    + _USUAL
)
_FILE: Final = 'stacks-rank{{ . | first | label "rank" }}.txt beside the journal'
_STACKS: Final = _told(
    _FILE,
    f'http://{{{{ . | first | label "instance" }}}}/stacks, or {_FILE}',
    "stacks-rankN.txt beside the journal",
)


def _ranks(what: str, query: str) -> str:
    """A template: the ranks that a query finds."""
    each = '{{ range sortByLabel "rank" . }}rank {{ .Labels.rank }} {{ end }}'
    return f"{{{{ with {_asked(query)} }}}}{what}: {each}{{{{ end }}}}"


LIVENESS_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "RunFailed", RuleClass.OUTSIDE, Severity.CRITICAL,
        "training ended with an exception",
        "See the exception in the job's log and in the journal's last record.",
        "Mend the cause and resume from the last checkpoint.",
        "Definition: train() raised something other than an interruption. For two scrapes, in which it shows whether another "
        "rank was killed, which is the cause then.",
        promql=PromQL(
            f"{_FAILED.replace('$known', '15m')}\n"
            "# another rank is gone, which is the cause; unless this page has been sent\n"
            f"unless on (run_id) (\n{_GONE}\n  unless on (run_id) {_firing('RunFailed')}\n)",
            hold=2,
            observed=_ranks(
                "failed",
                "max by (rank) (last_over_time(rlhf_run_end_timestamp_seconds{run_id=%q,outcome='failed'}[15m]))",
            ),
        ),
    ),
    Rule(
        "RunStalled", RuleClass.OUTSIDE, Severity.CRITICAL,
        "no step has finished for several times the usual step time",
        "A hanging collective, a reward service that does not answer, a deadlock, a stopped process; or, of a rank that does "
        "not answer scrapes, its node or the network to it.",
        "Read the stacks of the rank that is named, in the phase that is named; the other ranks only wait for it. They are at "
        "/stacks of its endpoint, and in stacks-rankN.txt beside the journal, also where the process answers nobody "
        "(docs/stalls.md); else take them with py-spy dump. Where it does not answer, see whether its node does (ssh, scheduler) "
        "and whether the process is stopped (state T in ps: kill -CONT). If it cannot be freed, kill the run and resume from "
        "the last checkpoint; that it is killed is not paged again.",
        "Heuristic: a multiple of the usual step, never below a floor; computed in process, so that slow runs do not page. "
        "Of a rank that lets two scrapes wait until their timeout the time since its last step is compared; and 2 "
        "minutes without an answer are enough, as they are for a rank that is gone.",
        promql=PromQL(
            f"max without (rank) (\n  (\n  {_STALLED}\n  )\n  unless on (run_id, rank) {_REPLACED}\n)\n"
            f"unless on (run_id) {_ended('run_id')}\n"
            "# a rank is gone, which is another page; unless this one has been sent\n"
            f"unless on (run_id) (\n{_GONE}\n  unless on (run_id) {_firing('RunStalled')}\n)",
            observed=_OBSERVED,
            stacks=_STACKS,
        ),
        inhibited_by=("RunFailed", "RunGone"),
    ),
    Rule(
        "RunGone", RuleClass.OUTSIDE, Severity.CRITICAL,
        "a training process vanished without saying how it ended",
        "Killed (out of memory, SIGKILL, node lost), or its target was taken away while it trained. The other ranks of the "
        "run wait for it, or were ended by the launcher.",
        "Look at the node and the scheduler (dmesg, job state), and end the ranks that are left; resume from the last "
        "checkpoint.",
        "Definition: a rank's series ended, it recorded no end, and its target refuses or is no more. That other ranks were "
        "then told to end says nothing of why, so each rank has to say so itself. A rank that keeps scrapes waiting has "
        "stalled, and so has a hanging one that is killed after that was paged.",
        promql=PromQL(
            f"max without (rank) (\n{_GONE}\n)\n"
            "# a page about this run has been sent\n"
            f"unless on (run_id) {_firing('RunStalled')}\n"
            f"unless on (run_id) (\n{_FAILED.replace('$known', '2h')}\n"
            f"  and on (run_id) last_over_time({_firing('RunFailed')}[2h])\n)",
            observed=_ranks(
                "gone",
                f"max by (rank) (last_over_time({_PROGRESS}{{run_id=%q}}[2h])) "
                f"unless on (rank) {_PROGRESS}{{run_id=%q}} "
                "unless on (rank) last_over_time(rlhf_run_end_timestamp_seconds{run_id=%q}[2h])",
            ),
            hold=8,
        ),
    ),
)  # fmt: skip
