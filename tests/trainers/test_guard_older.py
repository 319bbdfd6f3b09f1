"""The guard and its replay on TRL 0.29 with transformers 4, where no method of the trainer measures the gradient."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from environments import ROOT, WITHIN_S, interpreter

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from pathlib import Path
from failing import bundles, failing_trainer, finite, telemetry
from rlhf_otel.guard.bundle import read
from rlhf_otel.guard.replaying import replay

folder = Path(sys.argv[1])
trainer = failing_trainer(folder, [telemetry(guard_content="tokens")])
assert not hasattr(trainer, "_get_grad_norm")
trainer.train()
assert finite(trainer)
bundle = read(bundles(folder)[0])
replayed = replay(bundle)
assert replayed.losses == bundle.facts["losses"], replayed.losses
assert replayed.findings[0].stage == "backward", replayed.findings
"""


def test_a_bad_update_is_dropped_and_replayed(tmp_path: Path) -> None:
    paths = (ROOT, ROOT / "tests", ROOT / "tests/guard")
    done = subprocess.run(
        [str(interpreter("trl029")), "-W", "ignore", "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
