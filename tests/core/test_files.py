"""Where outputs go: through links, into devices and pipes, with the modes that are there or that the umask leaves."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.core.files import atomic, write_text
from bench.report.plots import style
from bench.report.site.folder import Folder
from bench.training import checkpoint


def picture(path: Path) -> None:
    import matplotlib.pyplot as plt

    style.save(plt.figure(figsize=(1, 1)), pd.DataFrame({"x": [1]}), path)


def tensors(path: Path) -> None:
    checkpoint.save(path, {"x": torch.zeros(2)}, {})


def page(path: Path) -> None:
    Folder(path.parent).write(path.name, "0", b"page")


def text(path: Path) -> None:
    write_text(path, "new")


WRITERS = pytest.mark.parametrize("write", [text, tensors, picture, page])


@pytest.fixture(params=[0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@WRITERS
def test_a_new_file_has_what_the_umask_leaves_and_a_replaced_one_its_mode(
    write: Callable[[Path], None], umask: int, tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "file.png"
    write(path)
    assert mode(path) == 0o666 & ~umask
    if write is page:
        path.write_bytes(b"another")  # a page that reads the same is not written
    path.chmod(0o640)
    write(path)
    assert mode(path) == 0o640


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
@WRITERS
def test_a_link_stays_a_link(write: Callable[[Path], None], there: bool, tmp_path: Path) -> None:
    target, folder = tmp_path / "elsewhere" / "file.png", tmp_path / "folder"
    target.parent.mkdir()
    if write is page:
        Folder(folder)
    folder.mkdir(exist_ok=True)
    if there:
        target.write_text("old")
    (folder / "file.png").symlink_to("../elsewhere/file.png")
    write(folder / "file.png")
    assert (folder / "file.png").is_symlink()
    assert target.stat().st_size
    assert target.read_bytes() != b"old"
    assert not list(target.parent.glob(".*"))


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    for path in (pipe, tmp_path / "link"):
        reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
        reader.start()
        write_text(path, "through")
        reader.join(20)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert got == [b"through", b"through"]
    assert {path.name for path in tmp_path.iterdir()} == {"link", "pipe"}


def test_standard_output_is_written_to(tmp_path: Path) -> None:
    """By a link of the test's own, as `/dev/stdout` is one: a fault must not replace that of the machine."""
    link = tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")
    code = f"from pathlib import Path; from bench.core.files import write_text; write_text(Path({str(link)!r}), 'told')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "told"), done.stderr
    assert link.is_symlink()


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    """In a mount name space of its own, on a node of the test's own: never on a device of this machine."""
    node = tmp_path / "null"
    script = f"mount -t tmpfs tmpfs '{tmp_path}' && mknod -m 666 '{node}' c 1 3 && exec '{sys.executable}' -c \"$1\""
    code = f"""
import os, stat
from pathlib import Path
from bench.core.files import write_text
write_text(Path({str(node)!r}), "gone")
assert stat.S_ISCHR(os.stat({str(node)!r}).st_mode)
assert os.listdir({str(tmp_path)!r}) == ["null"]
print("stays")
"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", code], capture_output=True, text=True, check=False
    )
    if "stays" not in done.stdout and ("unshare" in done.stderr or "mount" in done.stderr or "mknod" in done.stderr):
        pytest.skip("a mount name space with a device needs root")
    assert done.stdout == "stays\n", done.stderr


def test_a_folder_is_refused_and_a_block_that_fails_leaves_what_was(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "text")
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic(path) as temporary:
        temporary.with_name("nothing").read_text()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
