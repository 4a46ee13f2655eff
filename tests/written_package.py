"""A package as a document writes it: its blocks of code and of entry points, installed as pip would do it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def install(document: str, site: Path) -> Path:
    """Fill the folder `site` with `my_package`, code and metadata; returns it."""
    info = site / "my_package-0.1.dist-info"
    info.mkdir()
    points = ""
    for block in re.findall(r"```toml\n# pyproject.toml.*?\n(.*?)```", document, re.DOTALL):
        project = tomllib.loads(block)["project"]
        head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(head)
        for group, named in project["entry-points"].items():
            points += f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
    (info / "entry_points.txt").write_text(points)
    (site / "my_package").mkdir()
    (site / "my_package" / "__init__.py").touch()
    for name, code in re.findall(r"```python\n# (my_package/\S+)\n(.*?)```", document, re.DOTALL):
        (site / name).write_text(code)
    return site


def settings(document: str) -> str:
    """What the document writes into a bench.toml."""
    return "".join(re.findall(r"```toml\n# bench.toml\n(.*?)```", document, re.DOTALL))
