"""Ways in which a training process ends, each in a process of its own that is as real as any script's.

``python scenarios.py`` imports torch and TRL once and then forks a process for each line that it reads, so
that a test of an ending costs a second and not ten. The child leaves the loop and runs to the end of this
file: the interpreter shuts down as it always does. The parent answers with the child's pid, and after
``wait`` with its exit status.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from otlp_receiver import wait_until
from tiny import build_trainer, variety
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback, serving

STRIKES = 6
"""Step at whose end it happens."""
STEPS = 12


class Strike(TrainerCallback):
    """Does something at the end of a step, after telemetry has seen it."""

    def __init__(self, action: Callable[[Any], object], step: int = STRIKES) -> None:
        self.action, self.step = action, step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action(control)


class Tell(TrainerCallback):
    """Writes down where the endpoint is, and waits until as many clients as asked for have scraped it."""

    def __init__(self, folder: Path, scrapers: int) -> None:
        self.folder, self.scrapers = folder, scrapers

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            partial = self.folder / "address.partial"
            partial.write_text(serving.address() or "")
            partial.rename(self.folder / "address")
            deadline = time.monotonic() + 60
            while self.scrapers and _present() < self.scrapers and time.monotonic() < deadline:
                time.sleep(0.01)


def _present() -> int:
    endpoint = serving._endpoint
    return endpoint.clients.present() if endpoint is not None else 0


class Digests(TrainerCallback):
    """Writes down what each step came to: a digest of the weights after it."""

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "digests").open("w", buffering=1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        digest = sha256()
        for weights in kwargs["model"].state_dict().values():
            digest.update(weights.numpy().tobytes())
        self.file.write(f"{digest.hexdigest()}\n")


def train(folder: Path, *callbacks: TrainerCallback, **arguments: Any) -> Any:
    """Train a tiny policy, observed; ``SCRAPERS`` of the environment are waited for."""
    callbacks = (Digests(folder), *callbacks)
    telemetry = TelemetryCallback(
        metrics_port=int(os.environ.get("PORT", 0)),
        run_id=arguments.pop("run_id", os.environ.get("RUN_ID", "r")),
        journal=folder / "journal",
        linger_s=float(os.environ.get("LINGER_S", 600)),
    )
    told = Tell(folder, int(os.environ.get("SCRAPERS", 0)))
    defaults = {"max_steps": STEPS, "reward_funcs": [unhurried]}
    trainer = build_trainer(folder, [telemetry, told, *callbacks], **{**defaults, **arguments})
    trainer.train()
    return trainer


def unhurried(completions: list[str], **_: Any) -> list[float]:
    """Takes ``SECONDS`` of the environment."""
    time.sleep(float(os.environ.get("SECONDS", 0)))
    return variety(completions)


def _terminate(_: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _fail(_: Any = None) -> None:
    raise RuntimeError("no memory for step 7")


def unobserved(folder: Path) -> None:
    """End well, without telemetry."""
    build_trainer(folder, [Digests(folder)], max_steps=STEPS, reward_funcs=[unhurried]).train()


def workers(folder: Path) -> None:
    """A data loader's workers, and a reward function that has its own, forked and spawned."""
    train(folder, dataloader_num_workers=2, reward_funcs=[scored_elsewhere])


_spawned: list[bool] = []


def scored_elsewhere(completions: list[str], **_: Any) -> list[float]:
    """As ``variety``, in other processes."""
    import multiprocessing

    # Spawning imports torch anew, which takes seconds: once is enough.
    for method in ("fork", "spawn") if not _spawned else ("fork",):
        _spawned.append(method == "spawn")
        with multiprocessing.get_context(method).Pool(1) as pool:
            scores = pool.apply(variety, (completions,))
    return scores


def unobserved_workers(folder: Path) -> None:
    """As :func:`workers`, without telemetry."""
    more: dict[str, Any] = {"dataloader_num_workers": 2, "reward_funcs": [scored_elsewhere]}
    build_trainer(folder, [Digests(folder)], max_steps=STEPS, **more).train()


def finish(folder: Path) -> None:
    """End well."""
    train(folder)


def in_a_child(folder: Path) -> None:
    """End well, in a process that ends without ``atexit``, as ranks do that torch's ``spawn`` started."""
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=finish, args=(folder,))
    child.start()
    child.join()


def nan_reward(folder: Path) -> None:
    """A reward is NaN, once."""

    def broken(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        scores = unhurried(completions)
        return [float("nan"), *scores[1:]] if trainer_state.global_step == STRIKES - 1 else scores

    train(folder, reward_funcs=[broken])


def held_interpreter(folder: Path) -> None:
    """Native code in a reward function keeps the GIL until something is written to the pipe ``gate``."""
    from observing import scrape_when

    gate = os.open(folder / "gate", os.O_RDONLY)

    def never_lets_go(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step == STRIKES - 1:
            scrape_when(_knows_the_usual_step)
            time.sleep(0.5)  # two looks of the watch, which then sets its timer by that
            ctypes.PyDLL(None).read(gate, ctypes.create_string_buffer(1), 1)
        return variety(completions)

    train(folder, reward_funcs=[never_lets_go])


def _knows_the_usual_step(found: Any) -> bool:
    """Rather than the patience that the first steps have."""
    return any(value < 60 for _, value in found.samples["rlhf_stall_threshold_seconds"])


def exception(folder: Path) -> None:
    """A callback of the user's raises."""
    train(folder, Strike(_fail))


def exception_and_terminate(folder: Path) -> None:
    """A rank fails, and its launcher ends it at once, before any Prometheus has seen that."""
    try:
        train(folder, Strike(_fail))
    finally:
        _terminate()


def keyboard(folder: Path) -> None:
    """Ctrl-C."""
    train(folder, Strike(lambda _: os.kill(os.getpid(), signal.SIGINT)))


def exits(folder: Path) -> None:
    """``sys.exit`` in a callback."""
    train(folder, Strike(lambda _: sys.exit(3)))


def vanish(folder: Path) -> None:
    """``os._exit`` in a callback: no handler runs."""
    train(folder, Strike(lambda _: (_until_something_is_written(folder), os._exit(4))))


def kill(folder: Path) -> None:
    """SIGKILL."""
    train(
        folder, Strike(lambda _: (_until_something_is_written(folder), os.kill(os.getpid(), signal.SIGKILL)))
    )


def _until_something_is_written(folder: Path) -> None:
    """No handler will run: what waits for the background thread is lost, and at first that is everything."""
    wait_until(lambda: any(file.stat().st_size for file in (folder / "journal").glob("journal-*")))


def terminate(folder: Path) -> None:
    """SIGTERM without a handler of the user's."""
    train(folder, Strike(_terminate))


def terminate_and_stop(folder: Path) -> None:
    """SIGTERM with a handler that asks the trainer to stop."""
    asked: list[Any] = []
    signal.signal(signal.SIGTERM, lambda *_: setattr(asked[0], "should_training_stop", True))
    train(folder, Strike(asked.append, STRIKES - 1), Strike(_terminate))


def terminate_and_go_on(folder: Path) -> None:
    """SIGTERM with a handler that lets training go on; it says what was exposed on the way."""
    from observing import scrape_when

    signal.signal(signal.SIGTERM, lambda *_: None)
    ends: dict[int, Any] = {}

    def look(step: int) -> Callable[[Any], None]:
        def note(_: Any) -> None:
            found = scrape_when(lambda s: s("rlhf_step") == step and (len(ends) == 0 or not _ended(s)))
            ends[step] = _ended(found)

        return note

    def strike(_: Any) -> None:
        _terminate()
        ends[STRIKES] = _ended(scrape_when(_ended))

    train(folder, Strike(strike), Strike(look(STRIKES + 1), STRIKES + 1), Strike(look(STEPS - 1), STEPS - 1))
    (folder / "ends.json").write_text(json.dumps(ends))


def _ended(found: Any) -> bool:
    return "rlhf_run_end_timestamp_seconds" in found.samples


def terminate_and_exit(folder: Path) -> None:
    """SIGTERM with a handler that leaves, as many do."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    train(folder, Strike(_terminate))


def terminate_and_vanish(folder: Path) -> None:
    """SIGTERM with a handler that ends the process at once."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(6))
    train(folder, Strike(_terminate))


def hang(folder: Path) -> None:
    """A reward function that never returns, in the step after :data:`STRIKES`."""

    def hanging(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step == STRIKES:
            threading.Event().wait()
        return variety(completions)

    train(folder, reward_funcs=[hanging])


def terminate_and_raise(folder: Path) -> None:
    """SIGTERM with a handler that raises an exception."""
    signal.signal(signal.SIGTERM, lambda *_: _fail())
    train(folder, Strike(_terminate))


def terminate_and_fail_later(folder: Path) -> None:
    """SIGTERM that the user ignores, and two steps later an exception of its own."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    train(folder, Strike(_terminate), Strike(_fail, STRIKES + 2))


def terminate_and_checkpoint(folder: Path) -> None:
    """SIGTERM under transformers' own handler, which saves a checkpoint 3 s later and stops."""
    os.environ["SECONDS"] = "0.2"
    train(folder, Strike(_terminate), enable_jit_checkpoint=True, max_steps=1000)


def from_a_thread(folder: Path) -> None:
    """Training in a thread, which may set no handler, and the main thread leaves before its end."""
    stuck = threading.Event()

    def stay(_: Any) -> None:
        stuck.set()
        threading.Event().wait()

    threading.Thread(target=train, args=(folder, Strike(stay)), daemon=True).start()
    stuck.wait()


def one_after_another(folder: Path) -> None:
    """Three trainers in one process; the second and third begin as soon as the one before has ended."""
    bases = []
    for name in ("first", "second", "third"):
        (folder / name).mkdir()
        failing = (Strike(_fail),) if name == "first" else ()
        try:
            train(folder / name, Strike(lambda _: bases.append(serving.address()), 3), *failing, run_id=name)
        except RuntimeError:
            assert name == "first"
    (folder / "bases.json").write_text(json.dumps(bases))


def main(scenarios: dict[str, Any]) -> None:
    """Fork a child for each request; in the child return, having run its scenario."""
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # what transformers and torch import only now, is shared too
        build_trainer(Path(folder), reward_funcs=[variety], max_steps=1).train()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            _, status = os.waitpid(request["pid"], 0)
            _answer(os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if pid:
            _answer(pid)
            continue
        _become(Path(request["folder"]), request["environment"])
        scenarios[request["do"]](Path(request["folder"]))
        return


def _answer(value: int) -> None:
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


def _become(folder: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with (folder / "output.txt").open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)


if __name__ == "__main__":
    main(globals())
