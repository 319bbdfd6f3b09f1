"""The catalogue's rules as somebody wants them: some disabled, some tuned, some added.

    customized({
        "disable": ["SlowStep"],
        "tune": {"KLRunaway": {"when": ["average of kl_per_token > 0.5 nats"], "steps": 20}},
        "add": {
            "AnswersTooLong": {
                "severity": "warning",
                "summary": "completions are longer than the client shows",
                "when": ["average of completion_length > 900 tokens"],
            }
        },
    })

The same mapping is what a rule file says in YAML (:mod:`rlhf_otel.rule_files`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from rlhf_otel.catalogue.rules import RULES, Comparison, Condition, Rule, RuleClass, Severity
from rlhf_otel.detection import soundness
from rlhf_otel.detection.rule_text import condition_of, nearest, text_of
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.sources.trl_keys import measured_together

Place = tuple[str | int, ...]
"""Keys and indices that lead to a part of the mapping."""

MAX_ADDED: Final = 30
"""Each rule adds series to every scrape."""
LEVEL_STEPS: Final = 10
"""Steps that an added level rule waits unless it says otherwise: about the window of its alert."""

_NAME: Final = re.compile(r"[A-Z][A-Za-z0-9]{2,59}")
_SECTIONS: Final = ("disable", "tune", "add")
_TUNABLE: Final = ("severity", "steps", "after_step", "inhibited_by", "when")
_FIELDS: Final = (*_TUNABLE, "class", "summary", "cause", "remedy", "source")


class _WrongError(ValueError):
    """Something is wrong at a place."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def dotted(place: Place) -> str:
    """``tune.KLRunaway.when[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.lstrip(".") or "rules"


def customized(wanted: Mapping[str, Any], where: Callable[[Place], str] = dotted) -> tuple[Rule, ...]:
    """The rules as ``wanted``. Raises ConfigurationError with all that is wrong, each with its place as
    ``where`` names it."""
    wrong: list[_WrongError] = []
    rules = {rule.name: rule for rule in RULES}
    for step in (_check_sections, _disable, _tune, _add):
        wrong += step(wanted, rules)
    wrong += [] if wrong else _check(rules)
    if wrong:
        raise ConfigurationError("\n".join(f"{where(each.place)}: {each}" for each in wrong))
    return tuple(_without_disabled(rule, rules) for rule in rules.values())


def checked(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Rules made in Python, if each of them can fire; else ConfigurationError."""
    by_name = {rule.name: rule for rule in rules}
    wrong = list(_check(by_name))
    if len(by_name) < len(rules):
        wrong.append(_WrongError((), "two rules have the same name"))
    if wrong:
        raise ConfigurationError("\n".join(f"rules: {each}" for each in wrong))
    return tuple(rules)


def _without_disabled(rule: Rule, rules: Mapping[str, Rule]) -> Rule:
    kept = tuple(name for name in rule.inhibited_by if name in rules)
    return rule if kept == rule.inhibited_by else replace(rule, inhibited_by=kept)


# --- sections


def _check_sections(wanted: Mapping[str, Any], _: dict[str, Rule]) -> Iterator[_WrongError]:
    for section, content in wanted.items():
        kind = list if section == "disable" else dict
        if section not in _SECTIONS:
            yield _WrongError((section,), f"unknown section {section!r}; known are {', '.join(_SECTIONS)}")
        elif content is not None and not isinstance(content, kind):
            yield _WrongError(
                (section,), f"{section} must be a {'list' if kind is list else 'mapping'} of rules"
            )


def _disable(wanted: Mapping[str, Any], rules: dict[str, Rule]) -> Iterator[_WrongError]:
    content = wanted.get("disable")
    tuned = [name for name, _ in _entries(wanted, "tune")]
    for index, name in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(name, str):
            yield _WrongError(("disable", index), f"must be the name of a rule, it is {name!r:.60}")
        elif name in tuned:
            yield _WrongError(("disable", index), f"{name} is disabled and tuned")
        elif name not in rules:
            yield _WrongError(("disable", index), f"unknown rule {name!r}{nearest(str(name), rules)}")
        else:
            del rules[name]


def _tune(wanted: Mapping[str, Any], rules: dict[str, Rule]) -> Iterator[_WrongError]:
    for name, fields in _entries(wanted, "tune"):
        place: Place = ("tune", name)
        try:
            if name not in rules:
                raise _WrongError(place, f"unknown rule {name!r}{nearest(str(name), rules)}")
            rules[name] = _tuned(rules[name], _mapping(fields, place, _TUNABLE), place)
        except _WrongError as error:
            yield error


def _add(wanted: Mapping[str, Any], rules: dict[str, Rule]) -> Iterator[_WrongError]:
    entries = list(_entries(wanted, "add"))
    if len(entries) > MAX_ADDED:
        yield _WrongError(
            ("add",), f"{len(entries)} added rules; at most {MAX_ADDED}, each adds series to every scrape"
        )
    catalogue = {rule.name for rule in RULES}
    for name, fields in entries:
        place: Place = ("add", name)
        try:
            if name in catalogue:
                raise _WrongError(
                    place, f"{name} is a rule of the catalogue: tune it, or choose another name"
                )
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise _WrongError(place, f"{name!r} is no name for a rule; one reads like AnswersTooLong")
            rules[name] = _new(name, _mapping(fields, place, _FIELDS), place)
        except _WrongError as error:
            yield error


def _check(rules: Mapping[str, Rule]) -> Iterator[_WrongError]:
    """What is wrong with the rules as a whole, and with those that differ from the catalogue's."""
    catalogue = {rule.name: rule for rule in RULES}
    for name, rule in rules.items():
        if rule == catalogue.get(name):
            continue
        place: Place = ("tune" if name in catalogue else "add", name)
        for index, reason in soundness.faults(rule):
            where = place if index is None else (*place, "when", index)
            yield _WrongError(where, f"{name} can never fire: {reason}")
        if not measured_together(rule.needs):
            needed = ", ".join(sorted(rule.needs))
            yield _WrongError((*place, "when"), f"{name} can never fire: no trainer measures all of {needed}")
        for other in rule.inhibited_by:
            if other not in rules and other not in catalogue:
                yield _WrongError(
                    (*place, "inhibited_by"), f"unknown rule {other!r} in inhibited_by{nearest(other, rules)}"
                )
    for name, other in soundness.cycles(list(rules.values())):
        place = ("tune" if name in catalogue else "add", name)
        yield _WrongError(
            (*place, "inhibited_by"), f"{name} can never fire: it and {other} explain each other away"
        )


# --- one rule


def _tuned(rule: Rule, fields: Mapping[str, Any], place: Place) -> Rule:
    changes = _common(fields, place)
    if rule.rule_class is RuleClass.OUTSIDE and fields.keys() - {"severity"}:
        raise _WrongError(
            place, f"{rule.name} is judged by Prometheus alone: its severity can be tuned, no more"
        )
    if "when" in fields:
        conditions = list(rule.conditions)
        for index, condition in _conditions(fields, place):
            conditions[_same(conditions, condition, rule, (*place, "when", index))] = condition
        changes["conditions"] = tuple(conditions)
    return replace(rule, **changes)


def _same(conditions: Sequence[Condition], wanted: Condition, rule: Rule, place: Place) -> int:
    """The index of the condition whose threshold is tuned."""
    for index, own in enumerate(conditions):
        if isinstance(own, Comparison) and own == _with_threshold(wanted, own.threshold):
            return index
    own_text = "; ".join(map(text_of, conditions))
    raise _WrongError(
        place,
        f"{rule.name} does not compare this. It asks for: {own_text}. Tuning changes thresholds; for other conditions "
        "disable it and add a rule",
    )


def _with_threshold(condition: Condition, threshold: float) -> Condition:
    """The condition with another threshold; what compares nothing stays."""
    return replace(condition, threshold=threshold) if isinstance(condition, Comparison) else condition


def _new(name: str, fields: Mapping[str, Any], place: Place) -> Rule:
    for needed in ("severity", "summary", "when"):
        if not fields.get(needed):
            raise _WrongError(place, f"a new rule needs {needed}")
    texts = {
        key: _text(fields.get(key, ""), (*place, key)) for key in ("summary", "cause", "remedy", "source")
    }
    conditions = tuple(condition for _, condition in _conditions(fields, place))
    rule_class = (
        _one_of(RuleClass, fields["class"], (*place, "class")) if "class" in fields else RuleClass.LEVEL
    )
    if rule_class is RuleClass.OUTSIDE:
        raise _WrongError(
            (*place, "class"), "a rule of Prometheus alone belongs into a rule file of your own"
        )
    rule = Rule(
        name,
        rule_class,
        Severity.WARNING,
        texts["summary"].strip().rstrip("."),
        texts["cause"] or "See the rule's own documentation.",
        texts["remedy"] or "See the rule's own documentation.",
        texts["source"] or "Added by a rule file.",
        conditions,
        steps=LEVEL_STEPS if rule_class is RuleClass.LEVEL else 1,
        inhibited_by=("NonFinite",),
    )
    return replace(rule, **_common(fields, place))


def _common(fields: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """What both tuned and added rules can say."""
    found: dict[str, Any] = {}
    if "severity" in fields:
        found["severity"] = _one_of(Severity, fields["severity"], (*place, "severity"))
    for key, least in (("steps", 1), ("after_step", 0)):
        if key in fields:
            found[key] = _count(fields[key], least, (*place, key))
    if "inhibited_by" in fields:
        found["inhibited_by"] = tuple(_names(fields["inhibited_by"], (*place, "inhibited_by")))
    return found


def _conditions(fields: Mapping[str, Any], place: Place) -> Iterator[tuple[int, Condition]]:
    for index, text in enumerate(_names(fields["when"], (*place, "when"))):
        try:
            yield index, condition_of(text)
        except ValueError as error:
            raise _WrongError((*place, "when", index), str(error)) from None


# --- plain values


def _entries(wanted: Mapping[str, Any], section: str) -> Iterator[tuple[Any, Any]]:
    content = wanted.get(section)
    return iter(content.items() if isinstance(content, Mapping) else ())


def _mapping(value: Any, place: Place, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise _WrongError(place, f"must be a mapping with {', '.join(known)}")
    for key in value:
        if key not in known:
            raise _WrongError(
                (*place, key), f"unknown key {key!r}{nearest(str(key), known)} Known are: {', '.join(known)}"
            )
    return value


def _names(value: Any, place: Place) -> list[str]:
    """A text, or a list of texts."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
        raise _WrongError(place, f"must be a text or a list of texts, it is {value!r:.60}")
    return list(found)


def _text(value: Any, place: Place) -> str:
    if not isinstance(value, str) or "{{" in value:
        raise _WrongError(place, f"must be a text without {{{{, it is {value!r:.60}")
    return value


def _count(value: Any, least: int, place: Place) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**9:
        raise _WrongError(place, f"must be a whole number of steps from {least} on, it is {value!r:.60}")
    return value


def _one_of(kind: Any, value: Any, place: Place) -> Any:
    if value not in list(kind):
        raise _WrongError(place, f"must be one of {', '.join(kind)}, it is {value!r:.60}")
    return kind(value)
