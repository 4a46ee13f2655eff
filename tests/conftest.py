"""What the tests of several folders share: real digits, a trained ensemble, the folder of real data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

MAY_BE_MISSING = ("BENCH_DATA", "GPU", "not for this model", "needs root")

# Jobs stay in the process of the test, where it can look at them, however busy the machine is; `--workers` is obeyed.
os.environ["BENCH_EXECUTOR"] = "inline"

# Shared machines stall: a slow example says nothing about the code.
settings.register_profile("bench", deadline=None)
settings.load_profile("bench")


@pytest.fixture
def own_parents(tmp_path: Path) -> list[Path]:
    """The folders above `tmp_path` that are pytest's own: one more where tests run in several processes."""
    return [folder for folder in tmp_path.parents if folder.name.startswith(("pytest-", "popen-"))]


@pytest.fixture(scope="session")
def _one_thread() -> Iterator[None]:
    """Bit-for-bit comparisons need one order of summation."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Any:
    """Training (1,297) and test (500) images of the built-in digits."""
    from bench.data.base import load_splits

    return load_splits("digits", folder=Path())


@pytest.fixture(scope="session")
def train_ensemble(_one_thread: None) -> Callable[..., Any]:
    """Trains a plain ensemble of `members` networks quickly: (dataset, model, images, members=, epochs=) → ensemble."""

    def train(dataset: str, model: str, images: Any, *, members: int = 3, epochs: int = 3) -> Any:
        from bench.baselines.ece import Ece
        from bench.core import registry, seeds
        from bench.core.specs import Training
        from bench.models.build import build_member
        from bench.models.ensemble import Ensemble
        from bench.training.trainer import Trainer

        data = registry.load("datasets", dataset)()
        with seeds.isolated("tests", dataset, model):
            ensemble = Ensemble([build_member(model, {}, dataset=data) for _ in range(members)])
        recipe = Training(epochs=epochs, batch_size=64, optimizer="adam", lr=2e-3)
        trainer = Trainer(ensemble=ensemble, images=images, training=recipe, seed_axes=("tests",))
        Ece().fit(trainer)
        return ensemble.eval()

    return train


@pytest.fixture(scope="session")
def _trained_digits(digits: Any, train_ensemble: Callable[..., Any]) -> Any:
    return train_ensemble("digits", "digits_cnn", digits.train)


@pytest.fixture
def waits() -> Callable[[Callable[[], Any]], list[str]]:
    """Does a work and names its operations that would make the program wait for a GPU: their result is a number or a
    size that Python needs. (A copy to the CPU cannot be told from others here.)"""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            indices = args[1] if name in ("index", "index_put", "index_put_") else ()
            masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
            if masked or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"):
                self.seen.append(name)
            return func(*args, **(kwargs or {}))

    def watched(work: Callable[[], Any]) -> list[str]:
        with Watch() as watch:
            work()
        return watch.seen

    return watched


@pytest.fixture
def digits_ensemble(_trained_digits: Any) -> Any:
    """Three digits_cnn, trained for three epochs (about 95 % right); a copy, so that a test may change it."""
    import copy

    return copy.deepcopy(_trained_digits)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets that BENCH_DATA names; skips without one."""
    folder = os.environ.get("BENCH_DATA")
    if not folder:
        pytest.skip("needs real data: set BENCH_DATA to a folder that `bench prepare` has filled")
    return Path(folder)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty schema on the PostgreSQL that BENCH_TEST_POSTGRES names, of the test's module alone; dropped after."""
    from sqlalchemy import create_engine, text

    server = os.environ.get("BENCH_TEST_POSTGRES", "")
    if not server:
        pytest.skip("set BENCH_TEST_POSTGRES=postgresql://… to a server for tests")
    name = f"bench_{request.module.__name__.rpartition('.')[2]}"
    engine = create_engine(server.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {name} CASCADE"))
        connection.execute(text(f"CREATE SCHEMA {name}"))
        yield f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{name}"
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` check what only a GPU does."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With BENCH_TEST_STRICT (in CI) a part that is missing fails the test; real data and a GPU may be missing."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("BENCH_TEST_STRICT") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(word in reason for word in MAY_BE_MISSING):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be missing: {reason}"
