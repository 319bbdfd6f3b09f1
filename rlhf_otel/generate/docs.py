"""Reference pages: tables of metrics and rules, and a runbook per alert."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from rlhf_otel.bounds import (
    ACTIONS_S,
    BEFORE_HANDLER_S,
    CHECKPOINTS_S,
    END_S,
    ENDED_WELL_S,
    LEAVING_S,
    REPORT_S,
)
from rlhf_otel.catalogue.metrics import METRICS, Metric
from rlhf_otel.catalogue.rules import RULES, Comparison, NonFinite, Rule
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.settings import PREFIX, STANDARD_VARIABLES, Settings
from rlhf_otel.sigterm import LINGER_S
from rlhf_otel.sources.trl_keys import FAMILIES, UNKNOWN, Family
from rlhf_otel.sources.trl_keys.common import COMMON
from rlhf_otel.sources.trl_keys.ppo import PPO_DERIVED
from rlhf_otel.sources.trl_keys.trainers import TRAINERS

NOTE: Final = "<!-- Generated from rlhf_otel/catalogue by `rlhf-otel generate`; edit there, not here. -->\n\n"


def metrics_page() -> str:
    """Every metric family, and which log key of TRL becomes which."""
    parts = [
        NOTE + "# Metrics\n\nEvery series has the label `run_id`; `rank` is on what differs between ranks. "
        "Rank 0 alone exposes the training signals.\n"
    ]
    for group in dict.fromkeys(metric.group for metric in METRICS):
        rows = (_metric_row(metric) for metric in METRICS if metric.group == group)
        parts.append(
            f"## {group.capitalize()}\n\n" + _table(("metric", "type", "unit", "labels", "meaning"), rows)
        )
    parts.append(
        "## Log keys of TRL\n\nWith the prefix `eval_` a key becomes `rlhf_evaluation_signal`. "
        "Where a trainer has reward functions, `rewards/<function>/mean` and `/std` become "
        "`rlhf_reward_function_mean` and `_std`. `num_tokens` becomes `rlhf_tokens_total`; any other number "
        "becomes `rlhf_trainer_metric{key}`. A key marked (replay) is logged by versions before 0.29 alone: it has a "
        "meaning in logs that are replayed.\n"
    )
    parts.append("### Trainers\n\n" + _trainers())
    parts.append("### All trainers\n\n" + _keys(COMMON))
    parts += [_family(family) for family in (*FAMILIES, UNKNOWN)]
    return "\n".join(parts)


def _trainers() -> str:
    """Each trainer that the tests run."""
    title = {algorithm: family.name for family in FAMILIES for algorithm in family.algorithms}
    rows = (
        (
            f"`{tested.trainer}`",
            f"`{tested.algorithm}`",
            f"[{title[tested.algorithm]}](#{_anchor(title[tested.algorithm])})",
            ", ".join(tested.versions),
            tested.stand_ins,
        )
        for tested in TRAINERS
    )
    return (
        "Each is run in the tests with a tiny model on a CPU, and every key that it logs has to be in its table; in the "
        "last column is what had to be replaced for that.\n\n"
        + _table(("trainer", "label `algorithm`", "keys", "run with TRL", "replaced"), rows)
    )


def _anchor(heading: str) -> str:
    """As the usual renderers of Markdown make it."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def _family(family: Family) -> str:
    implicit = any(key.startswith("rewards/") for key in family.keys) and not family.reward_functions
    functions = " No reward functions: `rewards/*` are implicit rewards." if implicit else ""
    where = ", ".join(f"`{algorithm}`" for algorithm in family.algorithms) or "none of the above"
    passed = ", ".join(f"`{key}`" for key in family.passed)
    unmapped = f"\nOf these `rlhf_trainer_metric{{key}}`: {passed}.\n" if passed else ""
    derived = [SIGNAL_BY_NAME[name] for name in sorted(PPO_DERIVED)] if "ppo" in family.algorithms else []
    added = "".join(f"\nAlso `{signal.metric}` ({signal.unit}): {signal.help}\n" for signal in derived)
    return f"### {family.name}\n\n`algorithm`: {where}.{functions}\n\n{_keys(family.keys, family.replayed)}{unmapped}{added}"


def _keys(keys: Mapping[str, str], replayed: Collection[str] = ()) -> str:
    signals = ((key, SIGNAL_BY_NAME[name]) for key, name in keys.items())
    rows = (
        (f"`{key}`{' (replay)' * (key in replayed)}", f"`{signal.metric}`", signal.unit, signal.help)
        for key, signal in signals
    )
    return _table(("key", "metric", "unit", "meaning"), rows)


def _metric_row(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"`{metric.name}`", metric.type.value, metric.unit, labels, metric.help


def settings_page() -> str:
    """Every setting of the callback."""
    rows = (
        (
            f"`{name}`",
            f"`{PREFIX}{name.upper()}`"
            + (f", `{STANDARD_VARIABLES[name]}`" if name in STANDARD_VARIABLES else ""),
            "" if field.default is None else f"`{field.default!r}`",
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    )
    return (
        NOTE
        + "# Settings\n\nArguments of `TelemetryCallback` win over variables, those over the YAML file that the argument "
        f"`config` or the variable `{PREFIX}CONFIG` names. What is unknown, of the wrong type or impossible is refused when "
        "the callback is constructed.\n\n"
        + _table(("argument, key in the file", "variable", "default", "meaning"), rows)
        + "\nTraces are sent where the standard variables of OpenTelemetry say: `OTEL_EXPORTER_OTLP_ENDPOINT` or "
        "`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, with `OTEL_EXPORTER_OTLP_PROTOCOL` `http/protobuf` (the default) or `grpc`. "
        "Without an endpoint there are none, and the SDK is not imported. `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, "
        "`OTEL_TRACES_EXPORTER=none` and `OTEL_SDK_DISABLED` are obeyed.\n" + _longest_end()
    )


def _longest_end() -> str:
    """The bounds of an end; those of a process are counted beside ``linger_s``."""
    return (
        "\n## How long an end may take\n\nUsually nothing of this. Where a disk, a collector or a driver hangs, `train()` "
        f"returns at most {END_S:.0f} s after its last step, {ACTIONS_S:.0f} s more where `actions` are set, and "
        f"{CHECKPOINTS_S:.0f} s more where the last checkpoint is still being analysed (after an exception or a signal "
        f"{CHECKPOINTS_S - ENDED_WELL_S:.0f} s); with `report`, which takes a second or two, "
        f"{REPORT_S:.0f} s more. A torch profile that is being written then is waited for. The process stays for "
        "a Prometheus that scraped it, at most `linger_s` from the end of training; it then leaves `file_sd` and closes its "
        f"port, at most {LEAVING_S:.0f} s. A handler of yours for SIGTERM is called at most "
        f"{BEFORE_HANDLER_S:.0f} s later. After SIGTERM without one, `linger_s` counts as at most "
        f"{LINGER_S:.0f} s.\n"
    )


def rules_page(rules: Sequence[Rule] = RULES) -> str:
    """Every rule with its evidence."""
    rows = (
        (f"[{r.name}](runbooks/{r.name}.md)", r.severity.value, r.rule_class.value, evidence(r), r.summary)
        for r in rules
    )
    return (
        NOTE + "# Rules\n\nCritical rules page, warnings are tickets, info annotates. "
        "*Event* rules are judged in process at every step, *level* rules in both engines on the same "
        "exported gauge, *outside* rules in Prometheus alone. A scrape cannot count steps: how many in a row are in breach is "
        "counted in process alone and exported as `rlhf_rule_breach_steps`, which the level alerts ask for too.\n\n"
        + _table(("rule", "severity", "class", "fires when", "means"), rows)
    )


def evidence(rule: Rule) -> str:
    """What must hold for the rule to fire in process, in words."""
    if not rule.conditions:
        return "see the expression in its runbook"
    parts = [_condition(condition) for condition in rule.conditions]
    parts += [f"no `{signal}` was ever measured" for signal in rule.absent]
    text = " and ".join(parts)
    return f"{text}, for {rule.steps} steps" if rule.steps > 1 else text


def _condition(condition: Comparison | NonFinite) -> str:
    if isinstance(condition, NonFinite):
        return f"{', '.join(condition.signals)}: NaN or infinite"
    statistic = condition.statistic.value.replace("_", " ")
    return f"{statistic} of `{condition.signal}` {condition.op} {condition.threshold:g}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(' --- ' for _ in head)}|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"
