"""How long an end takes at most, where everything of ours hangs; usually it takes none of this.

Not bounded is what writes a torch profile that was asked for: the profiler itself is waited for.
"""

from __future__ import annotations

from typing import Final

from rlhf_otel.actions.of_a_run import CLOSE_S
from rlhf_otel.checkpoints.process import STOP_S as WORKER_S
from rlhf_otel.end_report import WAIT_S
from rlhf_otel.exporters.listener import JOIN_S
from rlhf_otel.run import ANALYSIS_S, FLUSH_S, SIGTERM_S
from rlhf_otel.serving import DISK_S, FORGET_S
from rlhf_otel.sources.system import STOP_S as SAMPLER_S
from rlhf_otel.stalls.watch import STOP_S as WATCH_S

BEFORE_HANDLER_S: Final = 2 * SIGTERM_S
"""What a user's handler of SIGTERM waits for."""
END_S: Final = SAMPLER_S + WATCH_S + 4 * FLUSH_S
"""What ``train()`` waits for at its end: the sampler, the watch for stalls, and steps; at the close steps,
spans and the last push."""
ACTIONS_S: Final = 2 * CLOSE_S
"""More of that with actions: steps, and then spans, or what is under way."""
CHECKPOINTS_S: Final = 2 * FLUSH_S + ANALYSIS_S + WORKER_S
"""More of that where a checkpoint is still being analysed: steps, spans, the analysis, and its process."""
ENDED_WELL_S: Final = 2 * FLUSH_S + ANALYSIS_S
"""The part of that which a run that did not finish well does without."""
REPORT_S: Final = WAIT_S
"""More of what ``train()`` waits for where a report is written at the end."""
LEAVING_S: Final = FORGET_S + DISK_S + JOIN_S
"""What the end of the process takes besides ``linger_s``, which counts from the end of training."""
