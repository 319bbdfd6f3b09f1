"""Where a run runs: versions of what matters, interpreter and machine, for whoever reads about it later."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any, Final

PACKAGES: Final = (
    "rlhf_otel", "trl", "transformers", "torch", "accelerate", "datasets", "peft", "vllm", "deepspeed", "bitsandbytes",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions of the packages that are imported, and the machine. Takes microseconds: nothing is imported or asked."""
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in PACKAGES}
    return {
        **{name: str(version) for name, version in versions.items() if version is not None},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "host": platform.node(),
        "cpus": os.cpu_count(),
        **_cuda(),
    }


def _cuda() -> dict[str, Any]:
    """CUDA's version as torch was built with it, and the GPUs' names where torch has initialised them anyway."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if torch is None or cuda is None or not cuda.is_initialized():
        return {}
    names = [cuda.get_device_name(index) for index in range(cuda.device_count())]
    return {"cuda": str(torch.version.cuda), "gpus": ", ".join(names)}
