"""Which board a run belongs to, by its algorithm: a run sees the panels that concern it, and no empty rows."""

from __future__ import annotations

from typing import Final, NamedTuple


class RunBoard(NamedTuple):
    """A board about one run."""

    uid: str
    name: str
    algorithms: tuple[str, ...]
    """As in ``RunIdentity.algorithm``; empty for the board that takes all others."""


GROUPS: Final = RunBoard("rlhf-run", "Run", ())
ASYNC: Final = RunBoard("rlhf-run-async", "Run, asynchronous", ("asyncgrpo", "asyncdistillation"))
PPO: Final = RunBoard("rlhf-run-ppo", "Run, PPO", ("ppo",))
PREFERENCE: Final = RunBoard(
    "rlhf-run-preference", "Run, preferences", ("dpo", "cpo", "tpo", "kto", "orpo", "bco")
)
ONLINE: Final = RunBoard("rlhf-run-online", "Run, online preferences", ("onlinedpo", "xpo", "nashmd"))
SUPERVISED: Final = RunBoard(
    "rlhf-run-supervised",
    "Run, supervised",
    ("sft", "reward", "prm", "distillation", "serverdistillation", "gkd", "gold", "iwopd"),
)
RUN_BOARDS: Final = (GROUPS, ASYNC, PPO, PREFERENCE, ONLINE, SUPERVISED)


def board_of(algorithm: str) -> str:
    """The uid of the board for runs of ``algorithm``."""
    return next((board.uid for board in RUN_BOARDS if algorithm in board.algorithms), GROUPS.uid)


def with_board(info: str) -> str:
    """PromQL: ``info``, series with the label ``algorithm``, with that uid as label ``board``."""
    expression = f'label_replace({info}, "board", "{GROUPS.uid}", "", "")'
    for board in RUN_BOARDS:
        if board.algorithms:
            expression = f'label_replace({expression}, "board", "{board.uid}", "algorithm", "{"|".join(board.algorithms)}")'
    return expression
