"""The site while runs go on: a small web server that builds the pages anew whenever the database changes."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bench.core.errors import BenchError
from bench.core.numbers import shown

LOOPBACK = "127.0.0.1"
STATE = "/-/state"
SCRIPT = "/-/live.js"
# The pages on the disk know nothing of this: it is added on the way out.
_LIVE = b"""(() => {
  let known = null;
  const look = async () => {
    try {
      const answer = await fetch("%s?page=" + encodeURIComponent(location.pathname), { cache: "no-store" });
      const state = await answer.text();
      if (known !== null && state !== known) location.reload();
      known = state;
    } catch { /* the server has ended: the page stays as it is */ }
  };
  look();
  setInterval(look, 2000);
})();
""" % STATE.encode()


class Server:
    """Serves a folder on `host` and `port` (0: any free one) until closed.

    Raises:
        BenchError: the address cannot be used.
    """

    def __init__(self, folder: Path, *, host: str = LOOPBACK, port: int = 0) -> None:
        handler = partial(_Handler, directory=str(folder.resolve()))
        kind = _Server6 if ":" in host else _Server
        try:
            self._http = kind((host, port), handler)
        except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
            told = getattr(error, "strerror", None) or "no host has this name"
            raise BenchError(f"cannot serve on {shown(host)} port {port} ({told}); give another --port") from error
        self._http.only_local = _is_loopback(host)
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{self._http.server_address[1]}/"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    only_local = True


class _Server6(_Server):
    address_family = socket.AF_INET6


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """A page with the script that watches it, the script, the page's state, or any other file of the folder."""
        if not self._is_allowed():
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        url = urlsplit(self.path)
        if url.path == SCRIPT:
            self._send(_LIVE, "text/javascript")
        elif url.path == STATE:
            page = unquote(url.query.removeprefix("page="))
            self._send(_state(Path(self.translate_path(page))).encode(), "text/plain")
        elif url.path.endswith(("/", ".html")):
            self._page(Path(self.translate_path(url.path)))
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        """As GET, without the content."""
        if self._is_allowed():
            super().do_HEAD()
        else:
            self.send_error(HTTPStatus.FORBIDDEN)

    def _is_allowed(self) -> bool:
        """On loopback only for who calls it by a name of this machine: a page from elsewhere must not read ours."""
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        return not self.server.only_local or _is_loopback(name)

    def _page(self, path: Path) -> None:
        if path.is_dir():
            path /= "index.html"
        try:
            content = path.read_bytes()
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        script = f'<script defer src="{SCRIPT}"></script>\n</head>'.encode()
        self._send(content.replace(b"</head>", script, 1), "text/html")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def list_directory(self, path: object) -> None:
        """Folders are not listed."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *_: object) -> None:
        """Requests are not printed."""


def _state(path: Path) -> str:
    with contextlib.suppress(OSError):
        return hashlib.sha256((path / "index.html" if path.is_dir() else path).read_bytes()).hexdigest()
    return "gone"


def changes(mark: Callable[[], object], stop: threading.Event, *, every: float = 2.0) -> Iterator[None]:
    """Yield whenever `mark` gives another value than at the last turn; looks `every` so many seconds until `stop`."""
    seen = mark()
    while not stop.wait(every):
        now = mark()
        if now != seen:
            seen = now
            yield
