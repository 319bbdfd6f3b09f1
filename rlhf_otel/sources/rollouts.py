"""Which policy sampled what a step of an asynchronous trainer trains on, sample by sample.

TRL's asynchronous trainers draw samples from a queue, each with the version of the weights that sampled it, pack them
into micro-batches one or more ahead of training, and keep the version for themselves. It is noted where a sample leaves the
queue, and follows it into its micro-batch and to the step that trains on that. All of it happens on the main process's
training thread, in order.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.records import Rollouts
from rlhf_otel.sources.wrapping import Function, Wrappers

MAX_GROUPS: Final = 10_000
"""Groups of which the version is remembered: far more than wait between the queue and a micro-batch."""
MAX_VERSIONS: Final = 1_000
"""Versions of the weights of which the step is remembered."""
DOING: Final = "following rollouts to the step that trains on them"


class RolloutVersions:
    """Follows the samples of one trainer. Does nothing for a trainer that is not asynchronous."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._began_at = 0
        self._made_at: dict[int, int] = {}
        """Version of the weights to the step whose update made them."""
        self._version_of_group: dict[Any, int] = {}
        self._packed: deque[Counter[int]] = deque()
        """Micro-batches that wait for training, each by version the number of its samples."""
        self._trained: Counter[int] = Counter()

    def attach(self, wrappers: Wrappers) -> bool:
        """Begin to follow; False where there is nothing to. Once the trainer has made its data loader."""
        trainer = self._trainer
        queue = getattr(getattr(trainer, "_rollout_dataset", None), "queue", None)
        worker = getattr(trainer, "rollout_worker", None)
        loader = getattr(getattr(trainer, "callback_handler", None), "train_dataloader", None)
        collator = getattr(loader, "collate_fn", None)
        if queue is None or worker is None or not hasattr(collator, "torch_call"):
            return False
        self._began_at = int(trainer.state.global_step)
        self._made_at[int(getattr(trainer, "model_version", 0))] = self._began_at
        wrappers.wrap(worker, "update_model_version", self._observed(self._synchronised, before=True))
        wrappers.wrap(queue, "get", self._observed(self._drawn))
        wrappers.wrap(collator, "torch_call", self._observed(self._pack, before=True))
        wrappers.wrap(trainer, "training_step", self._observed(self._train, before=True))
        return True

    def take(self) -> list[Rollouts]:
        """What was trained on since the last call, the newest weights first. Of samples of an unknown version nothing is
        said."""
        trained, self._trained = self._trained, Counter()
        made = Counter[int]()
        for version, samples in trained.items():
            if version in self._made_at:
                made[self._made_at[version]] += samples
        return [Rollouts(step, made[step], step <= self._began_at) for step in sorted(made, reverse=True)]

    def _observed(self, note: Any, before: bool = False) -> Any:
        """A wrapper that has ``note`` see the first argument before the call, or else the result after it."""

        def make(original: Function) -> Function:
            def observed(*args: Any, **kwargs: Any) -> Any:
                if before:
                    self._noted(note, args)
                    return original(*args, **kwargs)
                result = original(*args, **kwargs)
                self._noted(note, (result,))
                return result

            return observed

        return make

    @staticmethod
    def _noted(note: Any, args: tuple[Any, ...]) -> None:
        try:
            note(args[0] if args else None)
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("sources", error, DOING)

    def _synchronised(self, version: Any) -> None:
        self._made_at[int(version)] = int(self._trainer.state.global_step)
        _forget(self._made_at, MAX_VERSIONS)

    def _drawn(self, sample: Any) -> None:
        group = sample.group_id if hasattr(sample, "group_id") else sample.prompt_id
        self._version_of_group[group] = int(sample.model_version)
        _forget(self._version_of_group, MAX_GROUPS)

    def _pack(self, batch: Any) -> None:
        versions = (self._version_of_group.get(_group_of(example)) for example in _examples(batch))
        self._packed.append(Counter(version for version in versions if version is not None))

    def _train(self, _: Any) -> None:
        # Batches that a resumed run skips are packed, and never trained on: no more than these can be ahead.
        ahead = 1 + int(self._trainer.args.gradient_accumulation_steps)
        while len(self._packed) > ahead:
            self._packed.popleft()
        if self._packed:
            self._trained.update(self._packed.popleft())


def _group_of(example: dict[str, Any]) -> Any:
    """Async GRPO has groups, async distillation prompts."""
    return example["group_id"] if "group_id" in example else example["prompt_id"]


def _examples(batch: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The samples of a micro-batch: of each rank's row, which is a list or has one."""
    (rows,) = batch
    for row in rows:
        yield from getattr(row, "samples", row)


def _forget(known: dict[Any, int], most: int) -> None:
    while len(known) > most:
        del known[next(iter(known))]
