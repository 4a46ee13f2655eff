"""Put the files of the checkout's top level that a wheel needs (`bench.toml`, the published tables) into it.

setuptools' declarative configuration cannot take files from outside a package; everything else is in pyproject.toml.
"""

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithDefaults(build_py):
    """`build_py` that copies the defaults to `bench/_defaults/` of a wheel; an editable install reads the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "bench" / "_defaults"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "bench.toml", target / "bench.toml")
        shutil.copytree(HERE / "results" / "published", target / "published", dirs_exist_ok=True)
        self._commit(target / "commit")

    def _commit(self, target: Path) -> None:
        """The commit that a wheel is built from, for `bench --version`; none of a tagged release."""
        git = ["git", "-C", str(HERE)]
        try:
            tags = subprocess.run([*git, "tag", "--points-at", "HEAD"], capture_output=True, text=True, check=True)
            head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # not a checkout, say a source archive
            return
        if f"v{self.distribution.get_version()}" not in tags.stdout.split():
            target.write_text(head.stdout, encoding="ascii")


setup(cmdclass={"build_py": BuildWithDefaults})
