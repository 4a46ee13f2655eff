"""The folder of a site and its manifest: which pages stand, and what each was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bench.core import files
from bench.core.errors import BenchError
from bench.core.identity import ID_LENGTH

MANIFEST = "manifest.json"
FORMAT = 1


def fingerprint(value: Any) -> str:
    """Digest of JSON-like ingredients; quicker than `content_id`, for 1 and 1.0 may differ here."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ID_LENGTH]


class Folder:
    """A folder that holds a site and nothing else.

    A page is made from ingredients; their digest stands in the manifest, with the page's size.

    Raises:
        BenchError: the folder holds other files, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pages: dict[str, dict[str, Any]] = {}
        self.written: list[str] = []
        self.removed: list[str] = []
        try:
            self._old = self._claim()
        except OSError as error:
            raise BenchError(f"cannot write to {path}: {error.strerror or error}") from error

    def _claim(self) -> dict[str, Any]:
        """The pages that the manifest knows; an empty folder is made ours, any other is left alone."""
        path = self.path / MANIFEST
        if self.path.is_dir() and any(self.path.iterdir()):
            found = files.read_json(path) if path.is_file() else None
            if not isinstance(found, dict) or not isinstance(found.get("pages"), dict) or found.get("format") != FORMAT:
                raise BenchError(f"{self.path} holds other files; give -o a new or empty folder")
            return dict(found["pages"])
        self._save({})
        return {}

    def stands(self, name: str, digest: str) -> bool:
        """Whether the page is there, made from these ingredients; then it stays."""
        page = self._old.get(name)
        path = self.path / name
        if page and page["from"] == digest and path.is_file() and path.stat().st_size == page["size"]:
            self.pages[name] = page
            return True
        return False

    def write(self, name: str, digest: str, content: bytes) -> None:
        """Put a page in its place; one that reads the same already is not touched."""
        path = self.path / name
        self.pages[name] = {"from": digest, "size": len(content)}
        if path.is_file() and path.read_bytes() == content:
            return
        with files.atomic(path, synced=False) as temporary:  # a page can be made again
            temporary.write_bytes(content)
        self.written.append(name)

    def keep(self) -> None:
        """After a build that was cut short: note what is done, and what still stands of the build before."""
        self._save(self._old | self.pages)

    def finish(self) -> None:
        """Remove the pages that only the build before had, and note the new ones."""
        for name in sorted(self._old.keys() - self.pages.keys()):
            path = self.path / name
            if path.resolve().is_relative_to(self.path.resolve()) and path.is_file():
                path.unlink()
                self.removed.append(name)
        self._save(self.pages)

    def _save(self, pages: dict[str, dict[str, Any]]) -> None:
        text = json.dumps({"format": FORMAT, "pages": pages}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        path = self.path / MANIFEST
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            files.write_text(path, text)
