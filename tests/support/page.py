"""The programs in a Markdown page, which its tests run."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def section(page, heading):
    """Returns the text below a heading of the second level."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def program(page, heading):
    """Returns the Python blocks below a heading, as one program."""
    blocks = re.findall(r"^```python\n(.*?)^```", section(page, heading), re.M | re.S)
    if not blocks:
        raise ValueError(f"{page} has no program below {heading!r}")
    return "\n".join(blocks)


def run(page, heading, **given):
    """Runs the program below a heading; returns its names. `given` are names that it reads."""
    names = {"__name__": "page", **given}
    exec(compile(program(page, heading), f"{page}: {heading}", "exec"), names)
    return names
