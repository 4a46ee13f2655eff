"""Which `bench` this is: the name it is installed under, its version, and the commit where it is not a release.

The command and the import are `bench`; the distribution is `ensemble-bench`, since the package index knows another
project by the short name.
"""

from __future__ import annotations

import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

VERSION = "0.1.0"
DISTRIBUTION = "ensemble-bench"
PACKAGE = Path(__file__).resolve().parents[1]
BUILT_FROM = PACKAGE / "_defaults" / "commit"  # in a wheel that was not built from a release


def extra(name: str) -> str:
    """The command that installs one of our extras."""
    return f"pip install '{DISTRIBUTION}[{name}]'"


def described() -> str:
    """`0.1.0` of a release; else with the commit, `0.1.0, commit 1a2b3c4d5e6f, changed`."""
    known = commit()
    if not known.get("commit") or (known.get("release") and not known.get("dirty")):
        return VERSION
    return f"{VERSION}, commit {known['commit'][:12]}{', changed' if known.get('dirty') else ''}"


@cache
def commit() -> dict[str, Any]:
    """Commit, whether the code was changed since (with a digest of the difference), and `release` where a tag says so.

    Of a checkout by git; of a wheel the commit that it was built from. Empty where nothing is known.
    """
    if BUILT_FROM.is_file():
        return {"commit": BUILT_FROM.read_text(encoding="ascii").strip()}
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return {}

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10).stdout

    try:
        difference = git("diff", "HEAD", "--", "*.py", "*.toml")
        record: dict[str, Any] = {"commit": git("rev-parse", "HEAD").strip() or None, "dirty": bool(difference)}
        if f"v{VERSION}" in git("tag", "--points-at", "HEAD").split():
            record["release"] = True
    except (OSError, subprocess.SubprocessError):
        return {}
    if difference:
        record["difference"] = sha256(difference.encode()).hexdigest()[:24]
    return record
