"""docs/paper.md as it is written: its commands, its page in two columns, compiled; nothing is too wide or Type 3."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from in_process import bench

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
ARCHIVE = ROOT / "results" / "reference" / "digits" / "runs.zip"


@pytest.mark.slow
def test_the_page_of_the_docs_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs TeX: apt-get install texlive-latex-recommended texlive-latex-extra")
    bench("db", "import", ARCHIVE, "--results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    for line in re.findall(r"^\$ bench (.*)$", PAGE, re.MULTILINE):
        words, _, file = line.partition(" > ")
        told = bench(*shlex.split(words))
        if file:
            (tmp_path / file).write_text(told, encoding="utf-8")
    (source,) = re.findall(r"```latex\n(.*?)```", PAGE, re.DOTALL)
    rest = ("\\noindent\\includegraphics{budget.pdf}", "\\begin{figure*}\\includegraphics{all.pdf}\\end{figure*}")
    more = "\n\n".join(("\\clearpage", "\\input{robust}", "\\input{published}", *rest, ""))
    (tmp_path / "paper.tex").write_text(source.replace("\\end{document}", f"{more}\\end{{document}}"), encoding="utf-8")
    for _ in range(2):
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
            cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout
    assert "undefined" not in done.stdout
    if shutil.which("pdffonts"):
        fonts = subprocess.run(["pdffonts", "paper.pdf"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "TrueType" in fonts.stdout
        assert "Type 3" not in fonts.stdout
