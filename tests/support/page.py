"""The programs in a Markdown page, which its tests run."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def programs(page):
    """Returns heading -> the Python blocks below it, as one program."""
    found = {}
    for section in re.split(r"^## ", (ROOT / page).read_text(encoding="utf-8"), flags=re.M)[1:]:
        blocks = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
        found[section.partition("\n")[0]] = "\n".join(blocks)
    return found


def run(page, heading, **given):
    """Runs the program below a heading; returns its names. `given` are names that it reads."""
    names = {"__name__": "page", **given}
    exec(compile(programs(page)[heading], f"{page}: {heading}", "exec"), names)
    return names
