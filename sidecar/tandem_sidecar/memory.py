"""How much memory is free for the trainer."""

import importlib
from typing import Any, Literal

import psutil
import structlog

log = structlog.get_logger()


def observe_free_device_bytes(device: Literal["cpu", "gpu"]) -> int | None:
    """Free bytes: of main memory, or of the GPU of this pod that has the fewest; None if that cannot be measured."""
    if device == "cpu":
        return int(psutil.virtual_memory().available)
    try:
        # Of the package nvidia-ml-py, which comes with vLLM for GPUs only.
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        log.warning("free GPU memory is not measured: nvidia-ml-py is not installed")
        return None
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return min((int(nvml.nvmlDeviceGetMemoryInfo(handle).free) for handle in handles), default=None)
    except nvml.NVMLError as error:
        log.warning("free GPU memory cannot be measured", error=str(error))
        return None
