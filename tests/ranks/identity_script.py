"""What each rank runs to say who it is: a process group and runs without a trainer, which are quick to start.

``IDENTITY_TEST_CASES``: cases, one run each, with variables to set and what the checkpoint says by rank (or null).
The last line of the output is JSON: of each case the rank, run id, attempt, and whether it was exposed.
``IDENTITY_TEST_CRASH``: fail in the first start, for the launcher to start it again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch

from rlhf_otel import serving, settings
from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.run import Run

PATIENCE_S = 90.0


def until(condition: Any) -> None:
    """Wait until it holds, or give up."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def say(case: dict[str, Any]) -> dict[str, Any]:
    """Who this rank is in this case."""
    os.environ.update(case["variables"])
    rank = torch.distributed.get_rank()
    resumed = case["resumed"] and case["resumed"][rank]
    run = Run(None, settings.load(metrics_port=0, journal="off"), resumed)
    run.start(1, 0, 0.0)
    until(serving.address)
    identity, up = run.view().identity, serving.address() is not None
    run.end(Outcome.FINISHED)
    until(lambda: serving.address() is None)
    torch.distributed.barrier()
    for name in case["variables"]:
        del os.environ[name]
    return {"rank": rank, "run_id": identity.run_id, "attempt": identity.attempt, "up": up}


def main() -> None:
    if "IDENTITY_TEST_CRASH" in os.environ and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        sys.exit(1)
    torch.distributed.init_process_group("gloo")
    said = [say(case) for case in json.loads(os.environ["IDENTITY_TEST_CASES"])]
    sys.stdout.write(f"\n{json.dumps(said)}\n")


if __name__ == "__main__":
    main()
