"""Writes the sections of docs/benchmarks.md: each benchmark owns one, between two markers."""

import os
import platform
import re
import time
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def describe_machine(accelerator: str = "no GPU") -> str:
    """One line: cores, memory, processor type, accelerator, date."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"Machine: {os.cpu_count()} cores, {memory_bytes / 2**30:.0f} GiB, {platform.machine()}, {accelerator}; "
        f"{time.strftime('%Y-%m-%d')}."
    )


def write_section(name: str, markdown: str) -> None:
    """Replace the section `name` of the page; raises ValueError if the page has no markers of that name."""
    text = PAGE.read_text()
    section = re.compile(f"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not section.search(text):
        raise ValueError(f"{PAGE} has no lines `<!-- {name} -->` and `<!-- end {name} -->`: add them")
    PAGE.write_text(section.sub(lambda match: f"{match[1]}{markdown.strip()}\n{match[2]}", text))
