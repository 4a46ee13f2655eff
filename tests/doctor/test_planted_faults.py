"""Plug-ins that load, run and are wrong: each fault is found, named, and told with what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.core import registry
from bench.doctor import plugins

PACKAGE = Path(__file__).resolve().parents[1] / "plugin_packages" / "planted_package"

PROBLEM, MODEL = "leaves images and labels as they are", "leaves the model as it was"
STATE = "leaves the global random state alone"
DIRECT, COUNTED = "asks through the problem", "has its passes counted"
GRADIENTS, STEPS = "says whether it needs gradients", "says whether it is iterative"
ATTACKS = {
    "idle": ("moves the images", "all 24 images came back unchanged"),
    "descends": ("raises the loss", "points where the loss rises: add it"),
    "moves_images": (PROBLEM, "run changes images of the problem; work on copies"),
    "moves_labels": (PROBLEM, "run changes labels"),
    "moves_budget": (PROBLEM, "run changes budget"),
    "wide_momentum": ("goes on when images have left", "x, momentum = problem.drop_broken(x, momentum)"),
    "batch_mean": ("does not depend on the batch size", "of 24 images come out otherwise in batches of 7"),
    "shared": ("does not depend on the batch size", "take random numbers from problem.uniform()"),
    "training": (MODEL, "it is left in training mode, and was in evaluation mode"),
    "weights": (MODEL, "weights were changed (members.0.network.conv1.weight)"),
    "buffers": (MODEL, "buffers were changed (members.0.network.bn1."),
    "gradients": (MODEL, "gradients were left in .grad"),
    "directly": (DIRECT, "240 images went through problem.model or its members directly"),
    "denies_members": (DIRECT, "or say asks_members = True"),
    "claims_members": (DIRECT, "says asks_members = True and asks none"),
    "uncounted": (COUNTED, "240 images went forwards through the model and 0 were counted"),
    "two_passes": (COUNTED, "480 images went forwards through the model and 240 were counted"),
    "denies_gradient": (GRADIENTS, "says needs_gradient = False and differentiates the model; say True"),
    "claims_gradient": (GRADIENTS, "says needs_gradient = True and takes no gradient"),
    "denies_steps": (STEPS, "says iterative = False and takes gradients at 10 points; say True"),
    "claims_steps": (STEPS, "says iterative = True and asks at one point only"),
    "claims_linf": ("says the norm of its ball", "moves no image farther than its budget in ℓ2"),
    "claims_l2": ("keeps its budget and [0, 1]", "outside of the ℓ2 ball"),
    "no_ball": ("says the norm of its ball", "'eps' is for balls, 'c' for norm None"),
    "outside": ("keeps its budget and [0, 1]", "5e-05 outside of the ℓ∞ ball of its budget or of [0, 1]"),
    "negative": ("keeps its budget and [0, 1]", "5e-05 outside of the ℓ∞ ball of its budget or of [0, 1]"),
    "own_budget": ("uses its budget", "the same; use problem.budget"),
    "unseeded": ("is repeatable", "two runs with one seed differ"),
    "remembers": ("is repeatable", "keep nothing between runs"),
    "global_torch": (STATE, "take random numbers from problem.uniform() or normal()"),
    "global_numpy": (STATE, "take random numbers from problem.uniform() or normal()"),
    "resets": (STATE, "seeds the global generators"),
    "global_quiet": ("is repeatable", "the result depends on the global random state"),
    "forgets_targets": ("leads to its targets", "take a named loss of problem.gradient, or heed problem.targets"),
    "double": ("returns float32 images", "not torch.float64"),
    "flat": ("returns an image for each", "not a tensor (24, 64)"),
}
MODES, NUMBER, LEARNS = "leaves the members in training mode", "takes any number of members", "every member learns"
METHODS = {
    "two_only": (NUMBER, "with 3 members it fails (ValueError: too many values to unpack (expected 2"),
    "three_only": (NUMBER, "with 2 members it fails (IndexError"),
    "moves_images": ("leaves the batch as it is", "loss changes images of the batch in place"),
    "moves_labels": ("leaves the batch as it is", "loss changes labels of the batch in place"),
    "moves_set": ("leaves the training set as it is", "fit changes trainer.images in place"),
    "backward": ("leaves gradients to the trainer", "loss returns its terms and calls no backward()"),
    "steps": ("leaves steps to the trainer", "inside loss; return the loss, the trainer makes the step"),
    "left_in_eval": (MODES, "it is left in evaluation mode, and was in training mode"),
    "frozen": (MODES, "requires_grad was left switched"),
    "trains_in_eval": ("asks the members in training mode", "loss asks members 1, 2 in evaluation mode only"),
    "not_a_number": ("its loss is finite", "term 'log' is nan"),
    "for_each": ("its loss is a number", "term 'ce' is a scalar tensor, not a tensor (32,)"),
    "no_gradient": ("its loss can be minimised", "made under no_grad"),
    "forgotten": (LEARNS, "no gradient leads from the loss to member 2"),
    "detached": (LEARNS, "every member needs a part in a term"),
    "skips": ("trains every member through the trainer", "no trainer.train(…) has member 3"),
    "global_numpy": ("is repeatable", "weights depend on the global random state; draw from batch.generator"),
    "global_before": ("is repeatable", "weights depend on the global random state; draw from batch.generator"),
    "unseeded": ("is repeatable", "two trainings with one seed differ"),
    "resets": ("does not seed the global generator", "draw from batch.generator"),
    "no_prerequisite": ("has its prerequisites", "it requires plain_ensemble, which is not a configured method"),
    "word_prerequisite": ("has its prerequisites", "requires is a tuple of configured methods"),
    "unstorable": ("has settings", "settings are numbers, text, true or false"),
}
UNITS, LABELS = "has a mean and a std for each channel", "has labels of its classes"
SHOWN = "has images that show something"
DATASETS = {
    "same_images": ("has test images of their own", "40 of 40 test images are training images"),
    "some_images": ("has test images of their own", "10 of 40 test images are training images"),
    "byte_units": (UNITS, "divide those of 0 to 255 by 255"),
    "byte_mean": (UNITS, "divide those of 0 to 255 by 255"),
    "no_deviation": (UNITS, "is above 0"),
    "two_means": (UNITS, "a number for each of 1 channels"),
    "black": (SHOWN, "the brightest training pixel is 0 of 255"),
    "dark": (SHOWN, "images are uint8, 0 to 255, not divided by 255"),
    "grey": (SHOWN, "100 % of the training images are of one colour"),
    "floats": ("gives images and labels", "0 to 255, not a tensor (200, 1, 8, 8) of torch.float32"),
    "one_based": (LABELS, "with classes = 2 they are 0 to 1: count them from 0"),
    "fewer_classes": (LABELS, "training labels are 0 to 1; with classes = 1 they are 0 to 0"),
    "more_classes": ("has images of every class", "no training image of class 2, and classes = 3"),
    "byte": ("gives images and labels", "labels are int64 [200], not a tensor (200,) of torch.uint8"),
    "one_tensor": ("gives images and labels", "load returns two tensors"),
    "other_shape": ("has images of its shape", "shape says (1, 28, 28), and training images are (1, 8, 8)"),
    "other_size": ("says how large its test set is", "test_images says 100, and load(train=False) gives 40"),
    "drawn": ("is repeatable", "draw from a generator seeded by a constant"),
    "seeds": (STATE, "take a torch.Generator of its own"),
}
DIFFER, STEADY = "makes members that differ", "is the same in each pass"
MODELS = {
    "softmax": ("gives logits", "each output sums to 1: probabilities (a softmax)"),
    "log_softmax": ("gives logits", "a log-probability"),
    "ten_classes": ("heeds the number of classes", "build(shape=…, classes=…) makes as many outputs as classes"),
    "digits_shape": ("heeds the shape of the images", "or raises a BenchError that says which it takes"),
    "equal": (DIFFER, "the same weights; draw them from torch's global generator"),
    "seeded": (DIFFER, "the same weights; draw them from torch's global generator"),
    "unseeded": ("is repeatable", "network.0.weight come out otherwise with one seed"),
    "one_network": ("makes members that share nothing", "build makes new layers each time"),
    "one_layer": ("makes members that share nothing", "two members share network.0.weight"),
    "noisy_model": (STEADY, "it draws random numbers in eval mode"),
    "counting_model": (STEADY, "two passes in eval mode differ"),
    "batched_model": ("judges each image by itself", "no statistics over the batch in eval mode"),
    "infinite_model": ("runs", "are NaN or infinite"),
    "doubled_model": ("runs", "logits are torch.float32, not torch.float64"),
    "rounding_model": ("uses all its weights", "no gradient leads to the images"),
    "in_place": ("has exchangeable ReLUs", "nn.ReLU(inplace=False)"),
}
FUSIONS = {
    "members": ("gives an output an image", "not a tensor (6, 10)"),
    "in_place": ("leaves logits alone", "work on a copy"),
    "draws": ("is the same in each pass", "draws_a_member = True"),
    "over_the_batch": ("judges each image by itself", "no statistics over the batch"),
    "unsaid": ("says what it gives", "say is_log_probability = False"),
    "count": ("has a gradient", "give that of a smooth rule where yours counts"),
    "overflows": ("stands huge logits", "use log_softmax and logsumexp"),
    "settings": ("has no settings", "Settings has settings (temperature)"),
}
SOUND = (
    "attack_sound", "attack_sound_l2", "attack_sound_noise", "attack_sound_members", "method_sound",
    "method_sound_search", "method_sound_pair", "method_sound_stages", "dataset_sound", "model_sound",
    "model_sound_small", "fusion_sound", "fusion_sound_weighted",
)  # fmt: skip
PLANTED = [
    (f"{kind}_{name}", *told)
    for kind, table in (
        ("attack", ATTACKS),
        ("method", METHODS),
        ("dataset", DATASETS),
        ("model", MODELS),
        ("fusion", FUSIONS),
    )
    for name, told in table.items()
]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package, installed in this process."""
    monkeypatch.syspath_prepend(PACKAGE)
    registry.entries.cache_clear()
    yield
    registry.entries.cache_clear()


@pytest.mark.parametrize(("name", "check", "words"), PLANTED)
def test_a_planted_fault_is_one_line(name: str, check: str, words: str) -> None:
    (fault,) = (found for found in plugins.check(f"planted_{name}") if not found.ok)
    assert fault.name == check
    assert words in fault.detail
    assert "\n" not in fault.detail


@pytest.mark.parametrize("name", SOUND)
def test_the_same_without_a_fault_is_sound(name: str) -> None:
    assert [found for found in plugins.check(f"planted_{name}") if not found.ok] == []


def test_every_planted_plugin_is_tried() -> None:
    declared = {entry for kind in registry.KINDS for entry in registry.entries(kind) if entry.startswith("planted_")}
    assert declared == {f"planted_{name}" for name in (*SOUND, *(name for name, _, _ in PLANTED))}
