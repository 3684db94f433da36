"""Runs inside vLLM under bench/handoff.py (--worker-extension-cls): the real extension, its parts timed.

Appends a line of JSON, seconds by part, to the file that HANDOFF_PARTS names, for each update.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tandem_sidecar.vllm_extension import TandemWeightTransferEngine, TandemWorkerExtension

__all__ = ["TandemWorkerExtension"]

_seconds: defaultdict[str, float] = defaultdict(float)


def _timed[**P, T](name: str, call: Callable[P, T]) -> Callable[P, T]:
    def timed(*args: P.args, **kwargs: P.kwargs) -> T:
        started = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            _seconds[name] += time.perf_counter() - started

    return timed


def _reporting(finish: Callable[[Any], None]) -> Callable[[Any], None]:
    def report(engine: Any) -> None:
        finish(engine)
        with Path(os.environ["HANDOFF_PARTS"]).open("a") as file:
            file.write(json.dumps(_seconds) + "\n")
        _seconds.clear()

    return report


_engine: Any = TandemWeightTransferEngine
_engine.start_weight_update = _timed("start", _engine.start_weight_update)
_engine.receive_weights = _timed("load", _engine.receive_weights)
_engine.finish_weight_update = _reporting(_timed("finish", _engine.finish_weight_update))
