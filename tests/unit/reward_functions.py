"""Reward functions as users write them, good and bad ones: scored in processes of their own."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def share_of_digits(prompt: str, response: str, answer: str, row: Mapping[str, Any], scale: float = 1.0) -> float:
    print("printing must not disturb the replies")
    return scale * sum(letter.isdigit() for letter in response) / max(1, len(response))


def hangs_on_loop(prompt: str, response: str, answer: str, row: Mapping[str, Any]) -> float:
    if response == "loop":
        time.sleep(3600)
    return 1.0


def dies_on_bomb(prompt: str, response: str, answer: str, row: Mapping[str, Any]) -> float:
    if response == "bomb":
        os._exit(9)
    return 1.0


def dies_once(prompt: str, response: str, answer: str, row: Mapping[str, Any]) -> float:
    mark = Path(row["mark"])
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return 1.0


def raises(prompt: str, response: str, answer: str, row: Mapping[str, Any]) -> float:
    raise RuntimeError(f"no idea what {response} means")


def too_large(prompt: str, response: str, answer: str, row: Mapping[str, Any]) -> float:
    return 7.0


def not_a_number(prompt: str, response: str, answer: str, row: Mapping[str, Any]) -> float:
    return float("nan")
