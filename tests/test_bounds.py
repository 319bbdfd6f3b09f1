"""Training never waits longer at its end than the settings' page states."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rlhf_otel import bounds, settings
from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.generate.docs import settings_page
from rlhf_otel.run import Run

ON_A_BUSY_MACHINE_S = 60.0


def test_the_bounds_are_stated() -> None:
    stated = settings_page().partition("How long an end may take")[2]
    assert (bounds.END_S, bounds.ACTIONS_S, bounds.CHECKPOINTS_S) == (24.0, 10.0, 35.0)
    assert (bounds.ENDED_WELL_S, bounds.LEAVING_S) == (30.0, 13.0)
    for words in (
        "at most 24 s",
        "10 s more",
        "35 s more",
        "signal 5 s",
        "at most 13 s",
        "at most 20 s",
        "at most 2 s later",
    ):
        assert words in stated


def test_an_end_is_bounded_where_the_background_thread_hangs(tmp_path: Path) -> None:
    run = Run(None, settings.load(metrics_port="off", journal=tmp_path, checkpoints="off"))
    run.start(1, 0, 0.0)
    hanging, go_on = threading.Event(), threading.Event()
    run.pipeline.submit(lambda: (hanging.set(), go_on.wait()))
    assert hanging.wait(ON_A_BUSY_MACHINE_S)
    began = time.monotonic()
    run.end(Outcome.FINISHED)
    assert time.monotonic() - began < bounds.END_S + ON_A_BUSY_MACHINE_S
    go_on.set()
