"""Which trainers of TRL are run in the tests, and with which version."""

from __future__ import annotations

from typing import Final, NamedTuple


class Tested(NamedTuple):
    """A trainer class of TRL."""

    trainer: str
    versions: tuple[str, ...]
    stand_ins: str = ""
    """What is replaced, so that it runs on a CPU and alone."""

    @property
    def algorithm(self) -> str:
        """As in ``RunIdentity.algorithm``."""
        return self.trainer.removesuffix("Trainer").lower()


NOW, LAST_PPO, OLDEST = "1.16", "1.12", "0.29"
_WORKER = "the rollout worker and its server, the transfer of weights"

TRAINERS: Final[tuple[Tested, ...]] = (
    *(Tested(f"{name}Trainer", (OLDEST, NOW)) for name in ("GRPO", "RLOO", "DPO", "KTO", "Reward", "SFT")),
    Tested("DistillationTrainer", (NOW,)),
    Tested("ServerDistillationTrainer", (NOW,), "the teacher's server"),
    Tested("AsyncGRPOTrainer", (NOW,), f"{_WORKER}, the attention kernel"),
    Tested("AsyncDistillationTrainer", (NOW,), f"{_WORKER}, the attention kernel"),
    *(Tested(f"{name}Trainer", (OLDEST, NOW)) for name in ("OnlineDPO", "CPO", "ORPO", "GKD", "GOLD")),
    *(Tested(f"{name}Trainer", (NOW,)) for name in ("TPO", "GMPO", "A2PO", "IWOPD", "SDFT", "SDPO")),
    *(
        Tested(f"{name}Trainer", (OLDEST, LAST_PPO))
        for name in ("PPO", "BCO", "XPO", "NashMD", "PRM", "MiniLLM", "GRPOWithReplayBuffer")
    ),
    Tested("SSDTrainer", (LAST_PPO,)),
    Tested("GFPOTrainer", (OLDEST,), "its `_generate`, which TRL 0.29.1 unpacks wrongly"),
    Tested("PAPOTrainer", (OLDEST,)),
)
