"""A vLLM engine of test_layouts.py, which takes load files and tells what it then computes.

Usage: python -m tests.integration.layout_engine MODEL_DIRECTORY TENSOR_PARALLEL
"""

import sys
from pathlib import Path
from typing import Any

from tests.integration.line_worker import answer_requests

# Not from vllm directly: this one sets the environment before it imports it.
from tests.integration.weight_load_worker import generate, load, start_engine


def main() -> None:
    engine = start_engine(Path(sys.argv[1]), int(sys.argv[2]))

    def handle(request: dict[str, Any]) -> Any:
        load(engine, Path(request["load_file"]))
        return generate(engine, request["prompts"])

    answer_requests(handle)


if __name__ == "__main__":
    main()
