"""One real run: as trackers wrote it (recorded by ``record_logs.py``), and observed by the callback while tests
run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from replay_data import Observed, unpacked, what


@pytest.fixture
def trainer_state(tmp_path: Path) -> Path:
    return unpacked("trainer_state.json", tmp_path)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return unpacked("events.out.tfevents.1.host.1.0", tmp_path / "runs").parent


@pytest.fixture
def wandb_run(tmp_path: Path) -> Path:
    return unpacked("run-abcdefgh.wandb", tmp_path)


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """A tiny GRPO run whose reward function returns NaN from step 41 on, with the callback."""
    import tiny
    from record_logs import STEPS, Failing

    from rlhf_otel import TelemetryCallback
    from rlhf_otel.exporters.exposition import RunsCollector

    folder = tmp_path_factory.mktemp("observed")
    callback = TelemetryCallback(metrics_port="off", journal=folder / "journal", run_id="observed")
    trainer = tiny.build_trainer(
        folder, [callback], reward_funcs=(Failing(), tiny.numbers), max_steps=STEPS, logging_steps=1
    )
    trainer.train()
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    run = callback.run
    assert run is not None
    samples = [
        sample for family in RunsCollector(lambda: [run.view()]).collect() for sample in family.samples
    ]
    exposed = frozenset((sample.name, what(sample.labels)) for sample in samples)
    return Observed(folder, folder / "journal", folder / "trainer_state.json", exposed)
