"""Training by steps that are recorded and replayed, on a CPU by a stand-in, against training step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tape import Tape
from torch import Tensor, nn
from torch.nn import functional

from bench.core import config, recorded, registry, seeds, settings
from bench.core.progress import Progress
from bench.core.specs import Training
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble
from bench.training import captured, checkpoint, dual, trainer
from bench.training.method import Batch, Method
from bench.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("_one_thread", "_in_float64")
LOADED = config.load()
BATCH, EPOCHS = 12, 6
RECIPES: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "lr": 2**-7, "weight_decay": 1e-4, "eps": 1e-7},
    "sgd": {"optimizer": "sgd", "lr": 2**-6, "momentum": 0.9, "weight_decay": 1e-3},
}  # rates that float32 has
RAMPS: dict[str, Any] = {"ramp": 0.5}
SEARCH: dict[str, Any] = {**RAMPS, "steps": 2, "delta_start": 0.01, "delta_end": 0.1}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ece": ("ece", {}),
    "adp": ("adp", {}),
    "gal": ("gal", {}),
    "dverge": ("dverge", {"steps": 3}),
    "ckae": ("ckae", {}),
    "cos_only": ("cos_only", RAMPS),
    "cos_l2": ("cos_l2", RAMPS),
    "trs": ("trs", SEARCH),
    "trs, a point for each pair": ("trs", {**SEARCH, "support": "pair"}),
    "trs_printed": ("trs_printed", SEARCH),
    "trs_official": ("trs_official", SEARCH),
    "trs_at": ("trs_at", {**SEARCH, "attack_steps": 2}),
    "trs_report": ("trs_report", {**RAMPS, "steps": 2}),
    "at_pgd_linf": ("at_pgd_linf", {"steps": 2}),
    "at_pgd_l2": ("at_pgd_l2", {"steps": 2}),
    "at_ensemble": ("at_ensemble", {"steps": 2}),
    "adaboost": ("adaboost", {}),
    "gradientboost": ("gradientboost", {}),
}


class Heard(Progress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has gradients differentiated as on a GPU."""
    return lambda: monkeypatch.setattr(dual, "BY_PAIRS", frozenset({"cpu"}))


def method_of(name: str) -> Any:
    configured, changes = METHODS[name]
    spec = LOADED.config.methods[configured]
    table = {**spec.settings_on("digits", 3), **changes}
    return settings.build(registry.load("methods", spec.plugin), table, configured)


def images() -> ImageSet:
    """Two batches and one of 8 images."""
    count, draw = 2 * BATCH + 8, seeds.generator("captured")
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 100, (count, 1, 8, 8), generator=draw)
    pixels[torch.arange(count), 0, 2 * labels] += 100
    return ImageSet(pixels.byte(), labels)


def ensemble(dropout: float = 0.0, activation: Callable[[], nn.Module] = nn.ReLU) -> Ensemble:
    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 5, 3, stride=2), nn.BatchNorm2d(5), activation(),
            nn.Dropout(dropout) if dropout else nn.Identity(),  # on a GPU one of 0 draws numbers too
            nn.Flatten(),
            nn.Linear(45, 4),
        )  # fmt: skip

    with seeds.isolated("captured"):
        return Ensemble([network() for _ in range(3)]).double()


def recipe_of(name: str = "adam", epochs: int = EPOCHS) -> Training:
    return Training(epochs=epochs, batch_size=BATCH, decay=0.25, decay_at=(0.5,), augment=False, **RECIPES[name])


def trained(
    fit: Callable[[Trainer], Any], folder: Path, *, replayed: bool, recipe: str = "adam", dropout: float = 0.0,
    epochs: int = EPOCHS,
) -> tuple[Trainer, Any, list[str]]:  # fmt: skip
    heard, members = Heard(), ensemble(dropout)
    tape = Tape(members) if replayed else None
    made = Trainer(
        ensemble=members, images=images(), seed_axes=("captured",), folder=folder, progress=heard, recorder=tape,
        training=recipe_of(recipe, epochs), prerequisites={"ece": ensemble()},
    )  # fmt: skip
    fit(made)
    return made, tape, heard.notes


def left(folder: Path) -> dict[str, Tensor]:
    """Weights, running statistics and the optimiser's state at the end."""
    return checkpoint.load(folder / "checkpoint.safetensors")[0]


def apart(one: Trainer, other: Trainer, folders: Sequence[Path]) -> float:
    """The largest difference of losses, of weights and of what else a checkpoint holds, relative to each tensor."""
    curves = [torch.tensor([list(line["terms"].values()) for line in each.curve]) for each in (one, other)]
    found, expected = (left(folder) for folder in folders)
    assert found.keys() == expected.keys()
    each = [(found[name].double(), expected[name].double()) for name in found]
    longest = max(float(b.norm()) for _, b in each)
    return max(
        float((a - b).norm() / (b.norm() + 1e-12 * longest + 1e-300)) for a, b in [(curves[0], curves[1]), *each]
    )


def compared(fit: Callable[[Trainer], Any], folder: Path, **given: Any) -> tuple[float, Trainer, Any, list[str]]:
    """How far replayed training is from training step by step, and what it left."""
    plain, _, silent = trained(fit, folder / "plain", replayed=False, **given)
    mine, tape, notes = trained(fit, folder / "mine", replayed=True, **given)
    assert not plain.captured
    assert not [note for note in silent if note in notes and "recorded" in note]
    return apart(mine, plain, [folder / "mine", folder / "plain"]), mine, tape, notes


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", METHODS)
def test_replayed_training_is_training(name: str, recipe: str, tmp_path: Path) -> None:
    difference, mine, tape, notes = compared(method_of(name).fit, tmp_path, recipe=recipe)
    assert mine.captured
    assert not [note for note in notes if "recorded" in note]
    assert tape.replays > 0
    assert difference < 1e-6


@pytest.mark.parametrize("name", ["trs", "trs_official", "cos_l2", "gal"])
def test_so_it_is_by_passes_of_pairs(name: str, tmp_path: Path, pairs: Callable[[], None]) -> None:
    pairs()
    difference, mine, tape, _ = compared(method_of(name).fit, tmp_path)
    assert mine.captured
    assert tape.replays > 0
    assert difference < 1e-6


def test_each_shape_and_each_drawn_layer_is_recorded_once(tmp_path: Path) -> None:
    _, tape, _ = trained(method_of("trs").fit, tmp_path / "trs", replayed=True)
    assert tape.recordings == 2  # for batches of 12 and of 8 images
    assert tape.replays == 3 * EPOCHS - 2 * (captured.WARM + 1)
    _, tape, _ = trained(method_of("dverge").fit, tmp_path / "dverge", replayed=True, epochs=24)
    assert tape.recordings == 4  # behind the batch normalisation, and the scores


def test_dropout_is_drawn_anew_in_each_replay(tmp_path: Path) -> None:
    difference, mine, tape, _ = compared(method_of("trs").fit, tmp_path, dropout=0.4)
    assert mine.captured
    assert tape.replays > 0
    assert difference < 1e-6


def test_dropout_in_passes_of_pairs_is_not_recorded(tmp_path: Path, pairs: Callable[[], None]) -> None:
    pairs()
    difference, mine, tape, notes = compared(method_of("trs").fit, tmp_path, dropout=0.4)
    assert not mine.captured
    assert [note for note in notes if "recorded" in note] == [
        captured.NOT_RECORDED.format("a layer draws random numbers (dropout) in a pass that is made twice")
    ]
    assert tape.recordings == 0
    assert difference < 1e-6


def test_resumed_training_is_the_same(tmp_path: Path) -> None:
    fit = method_of("trs").fit
    whole, *_ = trained(fit, tmp_path / "one", replayed=True)

    class Stopped(Heard):
        def epoch(self, record: dict[str, Any], *, epochs: int) -> None:
            if record["epoch"] == 4:
                raise KeyboardInterrupt

    members = ensemble()
    given: dict[str, Any] = {
        "images": images(), "seed_axes": ("captured",), "folder": tmp_path / "two", "training": recipe_of(),
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        fit(Trainer(ensemble=members, progress=Stopped(), recorder=Tape(members), **given))
    resumed, *_ = trained(fit, tmp_path / "two", replayed=True)
    assert len(resumed.curve) == EPOCHS
    assert apart(resumed, whole, [tmp_path / "two", tmp_path / "one"]) < 1e-12


# ---------------------------------------------------------------- what cannot be recorded


@dataclass(frozen=True, kw_only=True)
class _Ece(Method):
    """A plain ensemble, whose losses have a `weight` each."""

    def weight(self, losses: Tensor, batch: Batch) -> Any:
        return 1.0

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        losses = torch.stack([functional.cross_entropy(member(batch.images), batch.labels) for member in members])
        return {"ce": losses.sum() * self.weight(losses, batch)}


class _ByLosses(_Ece):
    def weight(self, losses: Tensor, batch: Batch) -> float:
        return 0.5 if losses.max().item() > 1.0 else 2.0


class _ByProgress(_Ece):
    def weight(self, losses: Tensor, batch: Batch) -> float:
        return 1.0 + batch.progress


class _ByGenerator(_Ece):
    def weight(self, losses: Tensor, batch: Batch) -> Tensor:
        return torch.rand((), generator=batch.generator)


class _Seldom(_Ece):
    def weight(self, losses: Tensor, batch: Batch) -> Any:
        return batch.number(lambda at: 2.0) if COUNT[0] > 1 else 1.0


COUNT = [0]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (_ByLosses, "reads a value while steps are recorded"),
        (_ByProgress, "the loss reads batch.progress, where batch.number, drawn or choice would bring in its value"),
        (_ByGenerator, "the loss reads batch.generator, where batch.number"),
        (_Seldom, "the loss asks its batch for something that it did not ask for in the first step"),
    ],
)
def test_what_cannot_be_recorded_is_trained_step_by_step(kind: type[_Ece], reason: str, tmp_path: Path) -> None:
    def fit(trainer: Trainer) -> None:
        COUNT[0] = 0
        method = kind()

        def loss(members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
            COUNT[0] += 1
            return method.loss(members, batch)

        trainer.train("joint", loss)

    difference, mine, tape, notes = compared(fit, tmp_path)
    (told,) = notes
    assert told.startswith(captured.NOT_RECORDED.format(""))
    assert reason in told
    assert "\n" not in told
    assert not mine.captured
    assert tape.replays == 0
    assert difference < 1e-6


def test_a_loss_that_fails_fails_as_ever(tmp_path: Path) -> None:
    def loss(members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        trained(lambda trainer: trainer.train("joint", loss), tmp_path, replayed=True)


# ---------------------------------------------------------------- the stand-in sees what a GPU would do


def test_a_schedule_that_was_recorded_as_a_number_is_seen(tmp_path: Path) -> None:
    """A stranger's own count of steps, say: the same in all replays."""

    class Counts(_Ece):
        def weight(self, losses: Tensor, batch: Batch) -> float:
            COUNT[0] += 1
            return 1.0 + COUNT[0] / 10

    def fit(trainer: Trainer) -> None:
        COUNT[0] = 0
        Counts().fit(trainer)

    difference, mine, *_ = compared(fit, tmp_path)
    assert mine.captured  # nobody could know
    assert difference > 1e-3


@pytest.mark.parametrize("name", ["trs", "cos_l2", "at_pgd_linf"])
def test_so_is_a_ramp_of_ours(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured._Fixed, "number", lambda self, of: of(self._plan.current))
    difference, *_ = compared(method_of(name).fit, tmp_path)
    assert difference > 1e-3


@pytest.mark.parametrize("name", ["trs", "dverge", "gal"])
def test_random_numbers_are_not_drawn_in_a_recording(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured._Fixed, "drawn", lambda self, of: of(self._plan.current))
    difference, mine, *_ = compared(method_of(name).fit, tmp_path)
    assert not mine.captured
    assert difference < 1e-6


def test_so_is_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured._Plan, "choice", lambda self, of: of(self.current))
    difference, *_ = compared(method_of("dverge").fit, tmp_path)
    assert difference > 1e-3


def test_so_is_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = trainer.make_optimizer

    def by_number(parameters: Any, training: Training, **_: Any) -> torch.optim.Optimizer:
        return usual(parameters, training, recordable=False)

    monkeypatch.setattr(trainer, "make_optimizer", by_number)
    difference, *_ = compared(method_of("ece").fit, tmp_path, recipe="sgd")
    assert difference > 1e-3


# ---------------------------------------------------------------- on a GPU


def test_a_cpu_records_nothing() -> None:
    assert recorded.usual_recorder("cpu") is None


def on_a_gpu(name: str, recorder: Any, dropout: float = 0.0) -> tuple[list[Tensor], Trainer, list[str]]:
    heard, members = Heard(), ensemble(dropout).cuda()
    made = Trainer(
        ensemble=members, images=images().to("cuda"), seed_axes=("captured",), progress=heard, recorder=recorder,
        training=recipe_of(), prerequisites={"ece": ensemble().cuda()},
    )  # fmt: skip
    method_of(name).fit(made)
    numbers = [tensor.double().cpu() for tensor in members.state_dict().values()]
    return numbers, made, [note for note in heard.notes if "recorded" in note]


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_on_a_gpu_replayed_training_is_training(name: str) -> None:
    expected, *_ = on_a_gpu(name, None)
    recorder = recorded.usual_recorder("cuda")
    assert recorder is not None
    found, made, told = on_a_gpu(name, recorder)
    # The report's networks have dropout, in a pass that is made twice where gradients are differentiated by pairs.
    assert made.captured == (name != "trs_report"), told
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.gpu
def test_on_a_gpu_dropout_is_that_of_training_step_by_step() -> None:
    expected, *_ = on_a_gpu("ece", None, dropout=0.4)
    found, made, told = on_a_gpu("ece", recorded.usual_recorder("cuda"), dropout=0.4)
    assert made.captured, told
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.gpu
def test_on_a_gpu_training_goes_on_after_a_recording_that_failed() -> None:
    """In the middle of a phase, with the numbers of training step by step, random ones included."""
    numbers = []
    for recorder in (recorded.usual_recorder("cuda"), None):
        members = ensemble(0.4).cuda()
        heard = Heard()
        made = Trainer(
            ensemble=members, images=images().to("cuda"), seed_axes=("captured",), progress=heard, recorder=recorder,
            training=recipe_of(),
        )  # fmt: skip
        _ByLosses().fit(made)
        assert not made.captured
        assert len(heard.notes) == (recorder is not None)
        numbers.append([tensor.double().cpu() for tensor in members.state_dict().values()])
    for mine, theirs in zip(*numbers, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9)
