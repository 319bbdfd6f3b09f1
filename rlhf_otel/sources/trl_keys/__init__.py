"""Which key of a trainer's log is which signal: one table per family of trainers, chosen by the algorithm.

Mapping is by meaning. Several spellings of one quantity over TRL's versions lead to one signal; a word that
means different things in different trainers (``kl`` has six meanings) leads to different ones.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rlhf_otel.catalogue.signals import MONITORED, SIGNALS
from rlhf_otel.sources.trl_keys.asynchronous import ASYNC_DISTILLATION, ASYNC_GRPO, ASYNC_PASSED
from rlhf_otel.sources.trl_keys.common import COMMON
from rlhf_otel.sources.trl_keys.distillation import (
    DISTILLATION,
    MINILLM,
    OFF_POLICY,
    OFF_POLICY_PASSED,
    SELF_DISTILLATION,
    SELF_DISTILLATION_PASSED,
)
from rlhf_otel.sources.trl_keys.group_policy import GRPO, RLOO
from rlhf_otel.sources.trl_keys.ppo import PPO, PPO_BEFORE_0_12, PPO_DERIVED
from rlhf_otel.sources.trl_keys.preference import (
    A2PO,
    BCO,
    DPO,
    KTO,
    NASH_MD,
    NASH_MD_PASSED,
    ONLINE,
    ONLINE_PASSED,
    ORPO,
    XPO,
    XPO_PASSED,
)
from rlhf_otel.sources.trl_keys.supervised import PRM, REWARD, SFT


class Family(NamedTuple):
    """How a family of trainers logs."""

    name: str
    algorithms: tuple[str, ...]
    """Names of trainer classes, lower case, without "Trainer"."""
    keys: dict[str, str]
    """Log key to signal, without the keys that all trainers share."""
    reward_functions: bool = False
    """Whether ``rewards/<name>`` is a reward function."""
    reuses: bool = False
    """Whether some steps train on completions of an earlier step."""
    passed: tuple[str, ...] = ()
    """Keys, or patterns of keys, without a signal of their own; any other unknown key is new to us."""
    replayed: frozenset[str] = frozenset()
    """Keys that only versions of TRL before 0.29 log, which do not run with us: they are in logs that are replayed."""
    reduces_by_name: bool = False
    """Whether a window's values are summed for "total" in the key, and their extremum taken for "max" and "min"."""


_OLD_LENGTH: Final = frozenset({"completion_length"})
"""GRPO's to TRL 0.15."""

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "GRPO",
        ("grpo", "gmpo", "grpowithreplaybuffer", "gfpo", "papo"),
        GRPO,
        True,
        True,
        replayed=_OLD_LENGTH,
    ),
    Family("RLOO", ("rloo",), {**PPO, **RLOO}, True, True, replayed=_OLD_LENGTH | PPO.keys() - RLOO.keys()),
    Family("Async GRPO", ("asyncgrpo",), ASYNC_GRPO, True, passed=ASYNC_PASSED, reduces_by_name=True),
    Family("PPO", ("ppo",), PPO, replayed=frozenset(PPO_BEFORE_0_12)),
    Family("DPO, CPO, TPO", ("dpo", "cpo", "tpo"), DPO),
    Family("KTO", ("kto",), KTO),
    Family("ORPO", ("orpo",), ORPO),
    Family("BCO", ("bco",), BCO),
    Family("Online DPO", ("onlinedpo",), ONLINE, passed=ONLINE_PASSED),
    Family("XPO", ("xpo",), XPO, passed=XPO_PASSED),
    Family("Nash-MD", ("nashmd",), NASH_MD, passed=NASH_MD_PASSED),
    Family("A2PO", ("a2po",), A2PO),
    Family("Reward models", ("reward",), REWARD),
    Family("PRM", ("prm",), PRM),
    Family("SFT", ("sft",), SFT),
    Family("Distillation", ("distillation", "serverdistillation"), DISTILLATION, reuses=True),
    Family("MiniLLM", ("minillm",), MINILLM, True, True),
    Family("GKD, GOLD, IW-OPD", ("gkd", "gold", "iwopd"), OFF_POLICY, passed=OFF_POLICY_PASSED),
    Family(
        "SDFT, SDPO, SSD",
        ("sdft", "sdpo", "ssd"),
        SELF_DISTILLATION,
        True,
        True,
        passed=SELF_DISTILLATION_PASSED,
    ),
    Family(
        "Async distillation",
        ("asyncdistillation",),
        ASYNC_DISTILLATION,
        passed=ASYNC_PASSED,
        reduces_by_name=True,
    ),
)

UNKNOWN: Final = Family(
    "any other",
    (),
    {**PPO, **XPO, **ONLINE, **ORPO, **DPO, **ASYNC_GRPO, **SELF_DISTILLATION, **OFF_POLICY, **GRPO},
    True,
    True,
)
"""Of a trainer that is not known: by spelling, and where that is ambiguous as in GRPO."""

_BY_ALGORITHM: Final = {
    algorithm: family._replace(keys={**COMMON, **family.keys})
    for family in FAMILIES
    for algorithm in family.algorithms
}
_UNKNOWN: Final = UNKNOWN._replace(keys={**COMMON, **UNKNOWN.keys})


def family_of(algorithm: str) -> Family:
    """The family of an algorithm (``RunIdentity.algorithm``), its keys with the shared ones."""
    return _BY_ALGORITHM.get(algorithm, _UNKNOWN)


def measured_together(signals: frozenset[str]) -> bool:
    """Whether a run of some known algorithm can have all of them."""
    return any(signals <= measurable(name) for family in FAMILIES for name in family.algorithms[:1])


def measurable(algorithm: str, monitored: bool = True) -> frozenset[str]:
    """Signals that a run of ``algorithm`` can have: those that it logs, and those that no trainer logs (hooked,
    derived, of the system), and with ``monitored`` those of a `RewardModelMonitor`."""
    known = _BY_ALGORITHM.get(algorithm)
    signals = frozenset(signal.name for signal in SIGNALS) - (frozenset() if monitored else MONITORED)
    if known is None:
        return signals
    logged = {name for family in FAMILIES for name in family.keys.values()} - set(COMMON.values())
    logged |= PPO_DERIVED if algorithm != "ppo" else set()
    return signals - (logged - set(known.keys.values()))
