"""The training loop against plain torch loops, and its resume against undisturbed training, bit for bit."""

from __future__ import annotations

import copy
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.adp import Adp
from bench.baselines.ckae import Ckae
from bench.baselines.ece import Ece
from bench.baselines.gal import Gal
from bench.core.errors import JobError
from bench.core.numerics import numerics
from bench.core.progress import Progress
from bench.core.specs import Training
from bench.data.base import ImageSet
from bench.methods.trs import CosL2, Trs
from bench.models.ensemble import Ensemble
from bench.training import checkpoint
from bench.training.method import Batch, Method
from bench.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("_one_thread")
Weights = dict[str, Tensor]


class InterruptedEarlyError(Exception):
    """Stands for whatever ends a process between two epochs."""


class Stops(Progress):
    """Raises after a number of epochs, counted over all phases; keeps the notes."""

    def __init__(self, after: int = 10**9) -> None:
        self.left = after
        self.notes: list[str] = []

    def epoch(self, record: dict[str, Any], *, epochs: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedEarlyError

    def note(self, text: str) -> None:
        self.notes.append(text)


def network() -> nn.Module:
    """Batch normalisation and dropout: what makes a resume go wrong."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(36, 10),
    )


def make_ensemble(seed: int = 0, members: int = 2, build: Callable[[], nn.Module] = network) -> Ensemble:
    torch.manual_seed(seed)
    return Ensemble([build() for _ in range(members)])


def make_trainer(images: ImageSet, folder: Path | None = None, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "ensemble": make_ensemble(),
        "training": Training(epochs=3, batch_size=32, optimizer="adam", lr=1e-2, decay_at=(0.5,)),
        "seed_axes": ("tests", 0),
    }
    return Trainer(images=images, folder=folder, **{**settings, **changes})


def weights(trainer: Trainer) -> Weights:
    return {name: tensor.clone() for name, tensor in trainer.ensemble.state_dict().items()}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def curve(trainer: Trainer) -> list[dict[str, Any]]:
    """All that the records say but the time it took."""
    return [{key: value for key, value in record.items() if key != "seconds"} for record in trainer.curve]


@pytest.fixture
def images(digits: Any) -> ImageSet:
    """100 training images: three batches of 32 and one of 4."""
    return digits.train.take(slice(0, 100))


# ---------------------------------------------------------------- resume

RECIPES = {
    "sgd": {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
    "adam": {"optimizer": "adam", "lr": 1e-2, "weight_decay": 1e-4, "eps": 1e-7},
}
METHODS = {
    "ece": Ece(),
    "trs": Trs(delta_start=0.01, delta_end=0.1, steps=2),
    "trs_official": Trs(terms="official", delta_start=0.01, delta_end=0.1, steps=2),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_interrupted_and_resumed_equals_undisturbed(images, tmp_path, recipe, method, after):
    training = Training(epochs=3, batch_size=32, decay_at=(0.5,), **RECIPES[recipe])
    undisturbed = make_trainer(images, training=training)
    METHODS[method].fit(undisturbed)
    with pytest.raises(InterruptedEarlyError):
        METHODS[method].fit(make_trainer(images, tmp_path, training=training, progress=Stops(after)))
    # Other initial weights and another state of the global generator: all that counts must be in the checkpoint.
    torch.manual_seed(after)
    resumed = make_trainer(images, tmp_path, training=training, ensemble=make_ensemble(seed=77))
    METHODS[method].fit(resumed)
    assert same(weights(resumed), weights(undisturbed))
    assert curve(resumed) == curve(undisturbed)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert lines == resumed.curve
    assert len(lines) == 3


CHILD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import test_trainer as t
from bench.core.progress import Progress
from bench.data.base import load_splits

class Told(Progress):
    def epoch(self, record, *, epochs):
        print(record["epoch"], flush=True)

t.Ece().fit(t.killed_trainer(load_splits("digits", folder=Path()).train, Path(sys.argv[2]), progress=Told()))
"""


def killed_trainer(images: ImageSet, folder: Path | None, **changes: Any) -> Trainer:
    training = Training(epochs=12, batch_size=32, optimizer="sgd", lr=0.05, weight_decay=1e-3)
    return make_trainer(images, folder, training=training, **changes)


def test_a_killed_process_loses_at_most_an_epoch_and_no_bit(digits, tmp_path):
    undisturbed = killed_trainer(digits.train, None)
    Ece().fit(undisturbed)
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert child.stdout is not None
    told = 0
    for line in child.stdout:
        told = int(line)
        if told == 3:
            child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    _, metadata = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert told <= metadata["epoch"] < 12
    progress = Stops()
    resumed = killed_trainer(digits.train, tmp_path, ensemble=make_ensemble(seed=77), progress=progress)
    Ece().fit(resumed)
    assert progress.notes == [f"resuming after epoch {metadata['epoch']}"]
    assert same(weights(resumed), weights(undisturbed))
    assert curve(resumed) == curve(undisturbed)


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _no_header(data: bytes) -> bytes:
    return b"\xff" * 8 + data[8:]


def _foreign(data: bytes, tmp: Path) -> bytes:
    save_file({"weight": torch.zeros(3)}, tmp / "foreign")
    return (tmp / "foreign").read_bytes()


def _other_shapes(data: bytes, tmp: Path) -> bytes:
    """Members that fit in part only: a mark in every tensor, the last layer with classes of another number."""
    ensemble = make_ensemble()
    for member in ensemble.members:
        member[0].weight.data.fill_(7)
        member[-1] = nn.Linear(36, 3)
    metadata = {"phase": 0, "epoch": 1, "optimizer": {}, "curve": []}
    checkpoint.save(tmp / "other", checkpoint.member_tensors(ensemble.members), metadata)
    return (tmp / "other").read_bytes()


def _no_epoch(data: bytes, tmp: Path) -> bytes:
    """Weights that fit, without the place where training was."""
    checkpoint.save(tmp / "no", checkpoint.member_tensors(make_ensemble(seed=3).members), {"format": 1})
    return (tmp / "no").read_bytes()


DAMAGES: dict[str, Callable[[bytes, Path], bytes]] = {
    "empty": lambda data, _: b"",
    "cut short": lambda data, _: _truncated(data),
    "one byte short": lambda data, _: data[:-1],
    "no header": lambda data, _: _no_header(data),
    "other values": lambda data, _: data[:-1] + bytes([data[-1] ^ 1]),
    "another epoch": lambda data, _: data.replace(b'\\"epoch\\": 2', b'\\"epoch\\": 1'),
    "noise": lambda data, _: b"noise" * 1000,
    "not ours": _foreign,
    "other shapes": _other_shapes,
    "no epoch": _no_epoch,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_and_training_starts_anew(images, tmp_path, damage):
    undisturbed = make_trainer(images)
    Ece().fit(undisturbed)
    folder = tmp_path / "run"
    with pytest.raises(InterruptedEarlyError):
        Ece().fit(make_trainer(images, folder, progress=Stops(2)))
    path = folder / "checkpoint.safetensors"
    bad = DAMAGES[damage](path.read_bytes(), tmp_path)
    path.write_bytes(bad)
    progress = Stops()
    trainer = make_trainer(images, folder, progress=progress)
    Ece().fit(trainer)
    (note,) = progress.notes
    assert "\n" not in note
    assert "moved aside" in note
    assert "first epoch" in note
    assert [kept.read_bytes() for kept in folder.glob("*damaged*")] == [bad]
    # Nothing of the damaged file may have found its way into the weights.
    assert same(weights(trainer), weights(undisturbed))
    assert curve(trainer) == curve(undisturbed)


def test_a_checkpoint_of_an_older_version_is_gone_on_from_and_the_run_says_so(images, tmp_path):
    undisturbed = make_trainer(images)
    Ece().fit(undisturbed)
    with pytest.raises(InterruptedEarlyError):
        Ece().fit(make_trainer(images, tmp_path, progress=Stops(2)))
    path = tmp_path / "checkpoint.safetensors"
    tensors, metadata = checkpoint.load(path)
    save_file(tensors, path, metadata={"bench": json.dumps(metadata)})
    trainer = make_trainer(images, tmp_path)
    Ece().fit(trainer)
    (note,) = trainer.notes
    assert "no digest" in note
    assert same(weights(trainer), weights(undisturbed))


# ---------------------------------------------------------------- several phases


class Chain(Method):
    """Members one after another: each learns from the one before it, with image weights made in between."""

    def fit(self, trainer: Trainer) -> None:
        members = trainer.ensemble.members
        if "start" not in trainer.memory:  # what a resumed process cannot find out again
            trainer.memory["start"] = members[0][-1].weight.detach().clone()
        for number, member in enumerate(members):
            trainer.train(f"member {number}", self.boosted(trainer, number), members=[number], epochs=2)
            if f"weights.{number}" not in trainer.memory:
                member.eval()
                with torch.no_grad():
                    wrong = member(trainer.images.floats()).argmax(1) != trainer.images.labels
                trainer.memory[f"weights.{number}"] = 1.0 + wrong.float()

    @staticmethod
    def boosted(trainer: Trainer, number: int) -> Callable[[Sequence[nn.Module], Batch], dict[str, Tensor]]:
        def loss(members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
            (member,) = members
            scores = member(batch.images)
            if number == 0:
                return {"ce": functional.cross_entropy(scores, batch.labels)}
            with torch.no_grad():  # dropout and batch statistics of an earlier member: its mode matters
                before = trainer.ensemble.members[number - 1](batch.images)
            each = functional.cross_entropy(scores + before, batch.labels, reduction="none")
            return {"ce": (each * trainer.memory[f"weights.{number - 1}"][batch.indices]).mean()}

        return loss


@pytest.mark.parametrize("after", range(1, 7))
def test_phases_resume_between_and_inside(images, tmp_path, after):
    undisturbed = make_trainer(images, ensemble=make_ensemble(members=3))
    Chain().fit(undisturbed)
    assert [record["phase"] for record in undisturbed.curve] == [f"member {k}" for k in (0, 0, 1, 1, 2, 2)]
    ensemble = make_ensemble(members=3)
    with pytest.raises(InterruptedEarlyError):
        Chain().fit(make_trainer(images, tmp_path, ensemble=ensemble, progress=Stops(after)))
    resumed = make_trainer(images, tmp_path, ensemble=make_ensemble(seed=77, members=3))
    Chain().fit(resumed)
    assert same(weights(resumed), weights(undisturbed))
    assert same(resumed.memory, undisturbed.memory)
    assert curve(resumed) == curve(undisturbed)


def test_a_phase_changes_its_own_members_only(images):
    trainer = make_trainer(images, ensemble=make_ensemble(members=3))
    before = weights(trainer)
    assert trainer.train("one", Ece().loss, members=[1])
    after = weights(trainer)
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1"}


def test_train_says_whether_it_trained(images, tmp_path):
    first = make_trainer(images, tmp_path)
    assert first.train("a", Ece().loss)
    assert first.train("b", Ece().loss)
    again = make_trainer(images, tmp_path)
    assert not again.train("a", Ece().loss)
    assert not again.train("b", Ece().loss)
    assert again.train("c", Ece().loss)
    assert [record["phase"] for record in again.curve] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


# ---------------------------------------------------------------- losses that are no numbers


def spoiled(value: float, epoch: int, step: int, steps: int) -> Callable[..., dict[str, Tensor]]:
    """Terms `fine`, `bad`, `worse`: the last two take `value` once, in 0-based `epoch` and `step`."""
    calls = iter(range(10**9))

    def loss(members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        term = members[0](batch.images).square().mean()
        hit = next(calls) == epoch * steps + step
        other = torch.tensor(value if hit else 0.5)
        return {"fine": term, "bad": other, "worse": other.clone()}

    return loss


@pytest.mark.parametrize("step", [0, 1, 14, 15, 16, 31, 32, 36])
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 2e6, -2e6])
def test_the_first_bad_term_is_named_with_epoch_and_step(digits, tmp_path, value, epoch, step):
    images, build = digits.train.take(slice(0, 148)), lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    training = Training(epochs=2, batch_size=4, lr=1e-4)
    trainer = make_trainer(images, tmp_path, ensemble=make_ensemble(build=build), training=training)
    with pytest.raises(JobError) as caught:
        trainer.train("x", spoiled(value, epoch, step, 37))
    what = "exploded to" if abs(value) == 2e6 else "became"
    assert str(caught.value) == f"loss term 'bad' {what} {value:g} in epoch {epoch + 1}, step {step + 1}"
    # What is kept is the last good epoch.
    path = tmp_path / "checkpoint.safetensors"
    assert path.exists() == (epoch == 1)
    if epoch == 1:
        tensors, metadata = checkpoint.load(path)
        assert metadata["epoch"] == 1
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_an_earlier_step_counts_before_an_earlier_term(images):
    def loss(members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        term, bad = members[0](batch.images).square().mean(), torch.tensor(float("nan"))
        step = round(batch.progress * 3 * 4) % 4
        return {"a": bad if step == 2 else term, "b": bad if step == 1 else term}

    with pytest.raises(JobError, match=r"'b' became nan in epoch 1, step 2"):
        make_trainer(images).train("x", loss)


def test_the_weights_explode_and_the_job_fails(images):
    training = Training(epochs=3, batch_size=32, optimizer="sgd", lr=1e12)
    with pytest.raises(JobError, match=r"loss term 'ce' (exploded|became)"):
        Ece().fit(make_trainer(images, training=training))


# ---------------------------------------------------------------- what a step, an epoch and a record are


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_epoch_equals_a_plain_torch_loop(images, recipe):
    training = Training(epochs=2, batch_size=32, decay_at=(0.5,), decay=0.2, **RECIPES[recipe])
    build = lambda: nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 10))  # noqa: E731
    trainer = make_trainer(images, ensemble=make_ensemble(build=build), training=training)
    theirs = copy.deepcopy(trainer.ensemble)
    seen: list[tuple[Tensor, Tensor]] = []
    losses: list[float] = []

    def loss(members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        seen.append((batch.images, batch.labels))
        return Ece().loss(members, batch)

    trainer.train("x", loss)
    settings = {key: value for key, value in RECIPES[recipe].items() if key != "optimizer"}
    optimizer = (torch.optim.SGD if recipe == "sgd" else torch.optim.Adam)(theirs.parameters(), **settings)
    for step, (x, y) in enumerate(seen):
        theirs.train()
        optimizer.param_groups[0]["lr"] = training.lr * (1 if step < len(seen) // 2 else 0.2)
        optimizer.zero_grad()
        total = sum(functional.cross_entropy(member(x), y) for member in theirs.members)
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    ours, expected = weights(trainer), dict(theirs.state_dict())
    assert all(torch.allclose(ours[name], expected[name], rtol=1e-4, atol=1e-6) for name in expected)
    for record, part in zip(trainer.curve, (losses[: len(seen) // 2], losses[len(seen) // 2 :]), strict=True):
        assert record["terms"]["ce"] == pytest.approx(sum(part) / len(part), rel=1e-5)
        assert record["loss"] == pytest.approx(record["terms"]["ce"])


@pytest.mark.parametrize(
    ("epochs", "decay_at", "expected"),
    [
        (4, (), [1, 1, 1, 1]),
        (4, (0.5, 0.75), [1, 1, 0.1, 0.01]),
        (3, (1 / 3, 2 / 3), [1, 0.1, 0.01]),
        (6, (0.3333, 0.6667), [1, 1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_the_learning_rate_is_multiplied_at_its_shares_of_the_epochs(images, epochs, decay_at, expected):
    assert_rates(images, {"epochs": epochs, "decay_at": decay_at}, [0.01 * factor for factor in expected])


@pytest.mark.parametrize(("end", "expected"), [(0.0, [0.01, 0.0075, 0.0025]), (0.002, [0.01, 0.008, 0.004])])
def test_along_a_cosine_it_falls_towards_its_end(images, end, expected):
    """By hand: the cosines of 0, 60 and 120 degrees are 1, ½ and −½."""
    assert_rates(images, {"epochs": 3, "schedule": "cosine", "lr_end": end}, expected)


def assert_rates(images: ImageSet, recipe: dict[str, Any], expected: list[float]) -> None:
    """The rate that each epoch of the recipe really used, and says that it did."""
    training = Training(batch_size=25, optimizer="sgd", lr=0.01, momentum=0, **recipe)
    trainer = make_trainer(images, training=training)
    bias = trainer.ensemble.members[0][-1].bias
    values = [float(bias[0].detach())]
    # A slope of one: four steps an epoch move the weight by four times the rate that was really used.
    trainer.train(
        "x",
        lambda members, batch: {"slope": members[0][-1].bias.sum() + 0 * members[0](batch.images).sum()},
    )
    for record in trainer.curve:
        values.append(values[-1] - 4 * record["lr"])
    assert [record["lr"] for record in trainer.curve] == pytest.approx(expected)
    assert float(bias[0].detach()) == pytest.approx(values[-1], abs=1e-6)


def orders(images: ImageSet, method: Method, axes: tuple[object, ...] = ("tests", 0), members: int = 2) -> list[Tensor]:
    """Indices of every batch that the method was given."""
    seen: list[Tensor] = []

    def loss(nets: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        seen.append(batch.indices)
        assert torch.equal(batch.images, images.floats(batch.indices))
        assert torch.equal(batch.labels, images.labels[batch.indices])
        return method.loss(nets, batch)

    make_trainer(images, ensemble=make_ensemble(seed=members, members=members), seed_axes=axes).train("x", loss)
    return seen


def test_the_data_order_depends_on_the_seed_and_the_epoch_not_on_the_method(images):
    plain = orders(images, Ece())
    assert len(plain) == 12
    for other in (orders(images, CosL2(), members=3), orders(images, METHODS["trs"])):
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    epochs = [torch.cat(plain[start : start + 4]) for start in (0, 4, 8)]
    assert all(torch.equal(epoch.sort().values, torch.arange(100)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(torch.cat(orders(images, Ece(), ("tests", 1))[:4]), epochs[0])


def test_records_hold_the_clean_accuracy_in_eval_mode(images, digits):
    trainer = make_trainer(images, validation=digits.test)
    Ece().fit(trainer)
    trainer.ensemble.eval()
    with torch.no_grad():
        logits = [member(digits.test.floats()) for member in trainer.ensemble.members]
    mean = torch.stack([z.softmax(1) for z in logits]).mean(0)
    shares = [float((scores.argmax(1) == digits.test.labels).float().mean()) for scores in (*logits, mean)]
    record = trainer.curve[-1]
    assert [*record["member_accuracy"], record["ensemble_accuracy"]] == pytest.approx(shares, abs=1e-6)
    assert record["accuracy_on"] == "validation"
    assert [r["epoch"] for r in trainer.curve] == [1, 2, 3]


def test_measuring_and_training_leave_the_global_generator_alone(images):
    state = torch.get_rng_state()
    trainer = make_trainer(images, ensemble=make_ensemble())
    state = torch.get_rng_state()
    METHODS["trs"].fit(trainer)
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- precision


def smooth() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(36, 10)
    )


def in_precision(images: ImageSet, precision: str, method: Any, **changes: Any) -> tuple[Trainer, list[dict[str, Any]]]:
    """A short training, and the settings that held inside each step and at each look at the accuracy."""
    seen: list[dict[str, Any]] = []

    def watched(members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        seen.append({
            "bfloat16": torch.is_autocast_enabled("cpu"), "score": members[0](batch.images).dtype,
            "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        })  # fmt: skip
        return method.loss(members, batch)

    training = Training(epochs=2, batch_size=32, lr=5e-3, precision=precision)
    trainer = make_trainer(images, training=training, **changes)
    trainer.train("joint", watched)
    return trainer, seen


@pytest.mark.parametrize("name", ["ece", "trs", "trs_official", "gal", "ckae", "adp"])
def test_members_pass_in_bfloat16_and_everything_else_is_float32(images, name):
    method = {**METHODS, "gal": Gal(), "ckae": Ckae(), "adp": Adp()}[name]
    trainer, seen = in_precision(images, "bfloat16", method, ensemble=make_ensemble(build=smooth))
    plain, _ = in_precision(images, "float32", method, ensemble=make_ensemble(build=smooth))
    assert all(each["bfloat16"] and each["score"] == torch.bfloat16 for each in seen)
    assert not torch.is_autocast_enabled("cpu")
    assert {tensor.dtype for tensor in weights(trainer).values()} == {torch.float32, torch.int64}
    assert not same(weights(trainer), weights(plain))
    for coarse, fine in zip(trainer.curve, plain.curve, strict=True):
        for term, value in fine["terms"].items():
            assert coarse["terms"][term] == pytest.approx(value, rel=0.1, abs=0.05), term
    assert trainer.notes == []


def test_accuracy_is_judged_in_float32(images, monkeypatch):
    dtypes: set[torch.dtype] = set()
    logits = Ensemble.member_logits

    def watched(self: Ensemble, x: Tensor) -> Tensor:
        made = logits(self, x)
        dtypes.add(made.dtype)
        return made

    monkeypatch.setattr(Ensemble, "member_logits", watched)
    in_precision(images, "bfloat16", Ece())
    assert dtypes == {torch.float32}


def test_tf32_is_a_gpus_and_elsewhere_float32_which_is_told(images):
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with numerics():
        trainer, seen = in_precision(images, "tf32", Ece())
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)
        plain, unasked = in_precision(images, "float32", Ece())
    assert {each["tf32"] for each in seen} == {(True, True)}
    assert {each["tf32"] for each in unasked} == {(False, False)}
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    assert same(weights(trainer), weights(plain))
    assert trainer.notes == ["this device has no TF32: trained in float32"]
    assert plain.notes == []


def test_nothing_in_the_folder_is_a_pickle(images, tmp_path):
    Ece().fit(make_trainer(images, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "train.jsonl"]
    data = (tmp_path / "checkpoint.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert json.loads(header.pop("__metadata__")["bench"])["epoch"] == 3
    # All bytes behind the header belong to tensors of a plain type.
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(data) - 8 - length
    assert {entry["dtype"] for entry in header.values()} <= {"F32", "I64"}
    assert load_file(tmp_path / "checkpoint.safetensors").keys() == header.keys()
