"""Files as other people write them give the predictions of their own scripts, or one clear line."""

from __future__ import annotations

import argparse
import copy
import re
import shlex
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common_resnet import CommonResNet, Normalizer, Within, networks
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.cli.evaluate import command
from bench.core import config
from bench.core.errors import BenchError
from bench.data.digits import Digits
from bench.jobs.given import Given, Taken, fitting_models, sentence, take
from bench.models import layouts
from bench.models.build import model_plugin
from bench.models.layouts import Renaming
from bench.models.outside import WeightsFile, load, read

State = dict[str, Any]
Script = Callable[[Tensor], Tensor]


def options(words: str, files: list[Path]) -> Given:
    """As `bench evaluate` understands what was typed."""
    line = [*map(str, files), "-d", "digits", "--name", "x", *shlex.split(words)]
    typed = command.make_context("evaluate", line if "--model" in words else [*line, "--model", "resnet8"]).params
    said = ("model", "normalisation", "mean", "std", "fusion", "weights", "activation")
    renaming = Renaming(typed["prefixes"], typed["renamed"], typed["by_order"])
    return Given(files=tuple(files), name="x", dataset="digits", renaming=renaming, **{key: typed[key] for key in said})


def taken(files: list[Path], words: str = "") -> tuple[Taken, str]:
    """The ensemble and what is said of it."""
    given, loaded = options(words, files), config.load()
    assert given.model is not None
    spec = loaded.config.models[given.model]
    found = take(given, spec.plugin, spec.settings, loaded, Digits())
    return found, sentence(given, found)


def refused(files: list[Path], words: str = "") -> str:
    with pytest.raises(BenchError) as error:
        taken(files, words)
    assert "\n" not in str(error.value)
    return str(error.value)


def soft(parts: list[Any]) -> Script:
    """Their script's mean of softmax."""
    return lambda x: torch.stack([part(x).softmax(1) for part in parts]).mean(0)


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def joined(prefix: str, states: list[State], first: int = 0) -> State:
    """One state dict; `prefix` has a place for the number."""
    return {n: t for k, state in enumerate(states, first) for n, t in prefixed(prefix.format(k), state).items()}


class Written:
    """Three networks of somebody else, and how they may be saved: each method is a layout.

    It returns the files, their script's outputs for images in [0, 1], and options that are needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nets = networks()
        self.states: list[State] = [net.state_dict() for net in self.nets]
        self.data = Normalizer(*(float(value[0]) for value in (Digits.mean, Digits.std)))  # the data set's, by default
        self.plain = soft([nn.Sequential(self.data, net) for net in self.nets])

    def save(self, content: Any, name: str = "a.pth", **how: Any) -> list[Path]:
        torch.save(content, self.folder / name, **how)
        return [self.folder / name]

    def each(self, contents: list[Any]) -> list[Path]:
        return [path for k, content in enumerate(contents) for path in self.save(content, f"{k}.pth")]

    def a_state_dict_a_file(self) -> Any:
        return self.each(self.states), self.plain

    def names_linear_and_shortcut(self) -> Any:
        others = networks(head="linear", projection="shortcut")
        assert "layer2.0.shortcut.0.weight" in others[0].state_dict()
        return self.each([net.state_dict() for net in others]), self.plain

    def entries_model0_with_normalizers(self) -> Any:
        whole = [Within(net, Normalizer(0.4, 0.3)) for net in self.nets]
        return self.save({f"model{k}": net.state_dict() for k, net in enumerate(whole)}), soft(whole)

    def entries_model_0(self) -> Any:
        return self.save({f"model_{k}": state for k, state in enumerate(self.states)}), self.plain

    def entries_from_1(self) -> Any:
        return self.save({"epoch": 3, **{f"sub-net{k}": state for k, state in enumerate(self.states, 1)}}), self.plain

    def entries_numbers(self) -> Any:
        return self.save(dict(enumerate(self.states))), self.plain

    def module_list_nets(self) -> Any:
        return self.save(joined("nets.{}.", self.states)), self.plain

    def module_list_models_of_modules(self) -> Any:
        return self.save({"state_dict": joined("module.models.{}.module.", self.states)}), self.plain

    def torchensemble(self) -> Any:
        content = {"n_estimators": 3, "model": joined("estimators_.{}.", self.states), "_criterion": nn.NLLLoss()}
        return self.save(content), self.plain

    def module_list_itself(self) -> Any:
        return self.save(nn.ModuleList(self.nets).state_dict()), self.plain

    def bench_own(self) -> Any:
        rename = model_plugin("resnet", {}).own_name
        tensors = {}
        for k, state in enumerate(self.states):
            tensors |= {f"members.{k}.network.{rename(name)}": tensor.clone() for name, tensor in state.items()}
            tensors |= {f"members.{k}.normalise.mean": torch.tensor([0.2]).view(1, 1, 1, 1)}
            tensors |= {f"members.{k}.normalise.std": torch.tensor([0.5]).view(1, 1, 1, 1)}
        metadata = {"bench": '{"fusion": "mean_logits", "activation": "relu"}'}
        save_file(tensors, self.folder / "members.safetensors", metadata=metadata)
        scaled = [nn.Sequential(Normalizer(0.2, 0.5), net) for net in self.nets]
        return [self.folder / "members.safetensors"], lambda x: torch.stack([net(x) for net in scaled]).mean(0)

    def list_under_models(self) -> Any:
        return self.save({"models": self.states, "history": [[0.1, 0.2], [0.3, 0.4]]}), self.plain

    def list_alone(self) -> Any:
        return self.save(tuple(self.states)), self.plain

    def list_of_pairs(self) -> Any:
        return self.save({"members": [(state, 0.9) for state in self.states]}), self.plain

    def list_of_names_and_states(self) -> Any:
        return self.save([(f"net{k}", state) for k, state in enumerate(self.states)]), self.plain

    def normalisation_in_whole_numbers(self) -> Any:
        none = {"mean": torch.tensor([0]).view(1, 1, 1, 1), "std": torch.tensor([1]).view(1, 1, 1, 1)}
        content = [prefixed("normalizer.", none) | prefixed("model.", state) for state in self.states]
        return self.save(content), soft(self.nets)

    def net_with_accuracy_and_epoch(self) -> Any:
        contents = [{"net": state, "adv_acc": 48.3, "epoch": 0} for state in self.states]
        none = soft(self.nets)
        return self.each(contents), none, "--normalisation none"

    def checkpoint_with_optimiser(self) -> Any:
        contents = []
        for net in self.nets:
            net = copy.deepcopy(net)
            optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
            net(torch.linspace(0, 1, 256).view(4, 1, 8, 8)).logsumexp(1).sum().backward()
            optimizer.step()
            contents.append(
                {
                    "epoch": 7, "arch": "resnet8", "model_state_dict": net.state_dict(),
                    "optimizer_state_dict": optimizer.state_dict(), "best_acc1": torch.tensor(91.5),
                    "loss": np.float64(0.25), "args": argparse.Namespace(lr=0.1), "rng": torch.get_rng_state(),
                    "train_losses": torch.rand(7),
                }
            )  # fmt: skip
        trained = [CommonResNet() for _ in contents]
        for net, content in zip(trained, contents, strict=True):
            net.load_state_dict(content["model_state_dict"])
        return self.each(contents), soft([nn.Sequential(self.data, net.eval()) for net in trained])

    def model_key(self) -> Any:
        return self.each([{"model": state} for state in self.states]), self.plain

    def data_parallel(self) -> Any:
        return self.each([nn.DataParallel(net).state_dict() for net in self.nets]), self.plain

    def compiled(self) -> Any:
        return self.each([prefixed("_orig_mod.module.", state) for state in self.states]), self.plain

    def sequential_with_its_normalisation(self) -> Any:
        whole = [nn.Sequential(Normalizer(0.1 + 0.1 * k, 0.6), net) for k, net in enumerate(self.nets)]
        return self.each([net.state_dict() for net in whole]), soft(whole)

    def ensemble_of_sequentials(self) -> Any:
        whole = [nn.Sequential(Normalizer(0.1 + 0.1 * k, 0.6), net) for k, net in enumerate(self.nets)]
        return self.save(nn.ModuleList(whole).state_dict()), soft(whole)

    def sequential_without_its_numbers(self) -> Any:
        scaled = soft([nn.Sequential(Normalizer(0.3, 0.7), net) for net in self.nets])
        return self.each([prefixed("1.module.", state) for state in self.states]), scaled, "--mean 0.3 --std 0.7"

    def one_normalisation_for_all(self) -> Any:
        content = joined("models.{}.", self.states) | {
            "normalize.means": torch.tensor([0.2]),
            "normalize.sds": torch.tensor([0.4]),
        }
        return self.save(content), soft([nn.Sequential(Normalizer(0.2, 0.4), net) for net in self.nets])

    def normalisation_beside_the_first_layer(self) -> Any:
        contents = [{"mean": torch.tensor(0.2), "std": torch.tensor(0.4), **state} for state in self.states]
        return self.each(contents), soft([nn.Sequential(Normalizer(0.2, 0.4), net) for net in self.nets])

    def normalisation_in_plain_numbers(self) -> Any:
        contents = [{"state_dict": state, "normalize": {"mean": (0.2,), "std": (0.4,)}} for state in self.states]
        return self.each(contents), soft([nn.Sequential(Normalizer(0.2, 0.4), net) for net in self.nets])

    def normalisation_in_plain_numbers_of_bytes_for_all(self) -> Any:
        content = {"models": self.states, "mean": [51.0], "std": [102.0], "accuracies": [0.9, 0.8, 0.7]}
        return self.save(content), soft([nn.Sequential(Normalizer(0.2, 0.4), net) for net in self.nets])

    def normalisation_in_two_numbers(self) -> Any:
        content = {"models": self.states, "norm_mean": 0.2, "norm_std": 0.4, "seconds": {"mean": 3.0, "std": 1.0}}
        return self.save(content), soft([nn.Sequential(Normalizer(0.2, 0.4), net) for net in self.nets])

    def numbers_that_are_no_normalisation(self) -> Any:
        each_class = {"mean": [0.1 * k for k in range(10)], "std": [0.3] * 10}
        beside = {
            "noise": {"mean": 0.0, "std": 0.3},
            "history": {"mean": [0.5], "std": [0.1]},
            "offset": {"mean": [0.4]},
        }
        return self.save({"models": self.states, "each_class": each_class, **beside}), self.plain

    def normalisation_of_bytes(self) -> Any:
        whole = [Within(net, Normalizer(76.5, 51.0, 255.0)) for net in self.nets]
        return self.each([net.state_dict() for net in whole]), soft(whole)

    def lightning(self) -> Any:
        sgd = torch.optim.SGD(self.nets[0].parameters(), 0.1)
        content = {
            "epoch": 9, "global_step": 900, "pytorch-lightning_version": "2.4.0", "hyper_parameters": {"lr": 0.1},
            "state_dict": joined("model.nets.{}.", self.states), "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"Checkpoint": {"kth_value": torch.tensor(0.9), "best_k_models": {"a.ckpt": torch.ones(())}}},
            "hparams_name": "kwargs",
            "optimizer_states": [sgd.state_dict()], "lr_schedulers": [{"last_epoch": 9}],
        }  # fmt: skip
        return self.save(content, "last.ckpt"), self.plain

    def saved_again_within_an_attacker(self) -> Any:
        contents = []
        for state in self.states:
            inner = prefixed("model.", state)
            inner |= {
                "normalizer.new_mean": torch.full((1, 1, 1), 0.2),
                "normalizer.new_std": torch.full((1, 1, 1), 0.4),
            }
            attacker = {name.replace("normalizer", "normalize"): tensor.clone() for name, tensor in inner.items()}
            contents.append({"model": prefixed("module.", inner) | prefixed("module.attacker.", attacker), "epoch": 1})
        return self.each(contents), soft([nn.Sequential(Normalizer(0.2, 0.4), net) for net in self.nets])

    def robust_zoo(self) -> Any:
        numbers = {"mu": torch.full((1, 1, 1, 1), 0.2), "sigma": torch.full((1, 1, 1, 1), 0.4)}
        contents = [prefixed("module.", numbers | state) for state in self.states]
        return self.each(contents), soft([nn.Sequential(Normalizer(0.2, 0.4), net) for net in self.nets])

    def averaged_by_torch(self) -> Any:
        return self.each([torch.optim.swa_utils.AveragedModel(net).state_dict() for net in self.nets]), self.plain

    def moving_average_beside(self) -> Any:
        others = networks(6)[3:]
        contents = [
            {"state_dict": prefixed("module.", other.state_dict()), "state_dict_ema": prefixed("module.", state)}
            for other, state in zip(others, self.states, strict=True)
        ]
        return self.each(contents), self.plain, "--prefix state_dict_ema."

    def half(self) -> Any:
        halves = [copy.deepcopy(net).half() for net in self.nets]
        full = [copy.deepcopy(net).float() for net in halves]
        return self.each([net.state_dict() for net in halves]), soft([nn.Sequential(self.data, net) for net in full])

    def double(self) -> Any:
        return self.each([copy.deepcopy(net).double().state_dict() for net in self.nets]), self.plain

    def on_a_gpu(self) -> Any:
        tags = torch.serialization._package_registry[:]
        torch.serialization.register_package(0, lambda storage: "cuda:0", lambda storage, place: None)
        try:
            files = self.each(self.states)
        finally:
            torch.serialization._package_registry[:] = tags
        assert b"cuda:0" in files[0].read_bytes()
        return files, self.plain

    def old_format(self) -> Any:
        return self.save({"models": self.states}, _use_new_zipfile_serialization=False), self.plain

    def safetensors(self) -> Any:
        files = [self.folder / f"{k}.safetensors" for k in range(3)]
        for file, state in zip(files, self.states, strict=True):
            save_file({name: tensor.clone() for name, tensor in state.items()}, file)
        return files, self.plain

    def without_counters(self) -> Any:
        cut = [{n: t for n, t in state.items() if not n.endswith("num_batches_tracked")} for state in self.states]
        return self.each(cut), self.plain

    def weights_of_members(self) -> Any:
        content = {"models": self.states, "alphas": [0.7, 0.2, 0.1]}
        scripts = [nn.Sequential(self.data, net) for net in self.nets]

        def script(x: Tensor) -> Tensor:
            return sum(w * s(x).softmax(1) for w, s in zip(content["alphas"], scripts, strict=True))  # type: ignore

        return self.save(content), script, "--fusion weighted_probability"

    def names_of_their_own(self) -> Any:
        renamed = [{f"body.{n.replace('layer', 'stack.')}": t for n, t in state.items()} for state in self.states]
        maps = " ".join(f"--map body.stack.{k}=body.layer{k}" for k in (1, 2, 3))
        return self.each(renamed), self.plain, maps

    def names_of_their_own_in_an_ensemble(self) -> Any:
        renamed = [
            {n.replace("conv1", "stem") if n.startswith("conv1") else n: t for n, t in s.items()} for s in self.states
        ]
        return self.save(joined("nets.{}.", renamed)), self.plain, "--map stem=conv1"

    def order_alone(self) -> Any:
        numbered = [{f"tensor_{k}": t for k, t in enumerate(state.values())} for state in self.states]
        return self.save({f"net{k}": state for k, state in enumerate(numbered)}), self.plain, "--by-order"


LAYOUTS = [name for name in vars(Written) if not name.startswith("_") and name not in ("save", "each")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_predictions_of_its_own_script(layout: str, tmp_path: Path, digits: Any) -> None:
    files, script, *words = getattr(Written(tmp_path), layout)()
    images = digits.test.floats(slice(0, 200))
    found, told = taken(files, " ".join(words))
    assert len(found.ensemble.members) == 3
    assert told.startswith("3 members × resnet8 out of ")
    with torch.no_grad():
        ours, theirs = found.ensemble.eval()(images), script(images)
    assert len(theirs.argmax(1).unique()) > 1  # else equality would say little
    assert torch.equal(ours.argmax(1), theirs.argmax(1))
    shares = theirs if torch.allclose(theirs.sum(1), torch.ones(1)) else theirs.softmax(1)
    assert torch.allclose(ours.softmax(1), shares, atol=1e-5)


def test_the_table_is_as_long_as_promised() -> None:
    assert len(LAYOUTS) >= 20


def test_it_says_what_it_understood(tmp_path: Path) -> None:
    files, *_ = Written(tmp_path).entries_model0_with_normalizers()
    assert taken(files)[1] == (
        "3 members × resnet8 out of a.pth (model0.model to model2.model), names of the common CIFAR ResNets, "
        "normalised by the file's own mean and std (0.4; 0.3), fused by log of mean softmax"
    )
    found, told = taken(files, "--normalisation none --fusion mean_logits")
    assert "not normalised instead of the file's own, as was said, fused by mean of logits" in told
    assert (found.record.normalisation, found.record.mean, found.record.file_normalises) == (["none"], [[0.0]], True)
    found, told = taken(files, "--prefix model1.")
    assert told.startswith("1 member × resnet8 out of a.pth (model1.model), ")
    assert "left out by --prefix: model0." in told
    files = Written(tmp_path).checkpoint_with_optimiser()[0]
    assert taken(files)[1].endswith("passed over: optimizer_state_dict, rng")
    files, *_ = Written(tmp_path).entries_model0_with_normalizers()
    found, told = taken(files, "--prefix model1.")
    assert "fused" not in told
    assert found.record.members == ["a.pth: model1.model"]
    assert found.record.left_out[0].startswith("model0.")


def test_members_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    nets = networks(12)
    torch.save({f"m{k}": nets[k].state_dict() for k in sorted(range(12), key=str)}, tmp_path / "a.pth")
    found, _ = taken([tmp_path / "a.pth"])
    assert found.record.members == [f"a.pth: m{k}" for k in range(12)]
    for net, member in zip(nets, found.ensemble.members, strict=True):
        assert torch.equal(member.get_submodule("network.conv").weight, net.conv1.weight)


def other(states: list[State]) -> list[State]:
    return [{name: 2 * tensor for name, tensor in state.items()} for state in states]


def pasted(message: str) -> list[str]:
    """The options in a message, as they would be pasted."""
    found = re.findall(r"((?:--(?:prefix|map|normalisation|mean|std) '?[^\s']+'? ?|--by-order ?)+)", message)
    return [words.strip(" ,;") for words in found if "OLD=NEW" not in words]


@pytest.mark.parametrize(
    ("content", "said", "members"),
    [
        (lambda s: {"state_dict": s[0], "state_dict_ema": s[1]}, "the same one twice", [1, 1]),
        (lambda s: {"model": {"nets": s}, "ema": {"nets": other(s)}}, "the same 3 twice", [3, 3]),
        (lambda s: {"alice": s[0], "bob": s[1], "carol's": s[2]}, "not numbered as members are", [3]),
        (lambda s: {"model0": s[0], "model1": s[1], "surrogate": s[2]}, "not numbered as members are", [3]),
        (lambda s: {"epoch_10": s[0], "epoch_20": s[1]}, "numbered 10, 20: is one missing", [2]),
        (lambda s: {"a0": {"b1": s[0]}, "a1": {"b0": s[1]}}, "numbered in several ways", [2]),
        (lambda s: {"model": s[0], "ema": {"shadow": {"conv1.weight": s[1]["conv1.weight"]}}}, "belongs to no", [1]),
        (lambda s: {"state_dict": {**prefixed("model.", s[0]), "acc.tp": torch.tensor(3), "hits.n": torch.tensor(1)}},
         "do without", [1]),
        (lambda s: {"net": s[0], "others": [(s[1], 0.9), (s[2], 0.8)]}, "takes all as members", [3]),
        (lambda s: {f"net{k}": {f"t{i}": t for i, t in enumerate(x.values())} for k, x in enumerate(s)}, "order", [3]),
    ],
)  # fmt: skip
def test_a_hint_works_when_pasted_and_makes_no_member_of_an_ensemble(
    content: Callable[[list[State]], Any], said: str, members: list[int], tmp_path: Path
) -> None:
    states = [net.state_dict() for net in networks()]
    torch.save(content(states), tmp_path / "a.pth")
    message = refused([tmp_path / "a.pth"])
    assert said in message
    hints = pasted(message)
    assert [len(taken([tmp_path / "a.pth"], hint)[0].ensemble.members) for hint in hints] == members, message


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"head.weight": torch.ones(3, 4), "head.bias": torch.ones(3)}, "head.weight, head.bias belong to no member"),
        ({"normalizer.mean": torch.tensor([0.5])}, "normalizer.mean looks like one half of a normalisation"),
        ({"n1.mean": torch.ones(1), "n2.mean": torch.zeros(1), "n1.std": torch.ones(1)}, "may each be the normalis"),
        ({"normalizer.mean": torch.ones(1), "normalizer.std": torch.zeros(1)}, "a deviation that is not above 0"),
        ({"mean": torch.ones(3), "std": torch.ones(3)}, "has 3 and 3 numbers for 1 channels"),
        ({"gate.weight": torch.ones(3, 64)}, "gate.weight speaks of a way to fuse members that is not among"),
        ({"model3.conv.weight": torch.ones(2, 3), "model3.fc.weight": torch.ones(2, 3)}, "a member of another model?"),
    ],
)  # fmt: skip
def test_what_is_left_over_is_never_ignored(beside: State, said: str, tmp_path: Path) -> None:
    content = joined("model{}.", [net.state_dict() for net in networks()])
    torch.save(content | beside, tmp_path / "a.pth")
    assert said in refused([tmp_path / "a.pth"])


def test_no_network_hides_deep_in_a_file(tmp_path: Path) -> None:
    net, other, *_ = [net.state_dict() for net in networks()]
    deep: Any = other
    for _ in range(10):
        deep = {"in": deep}
    torch.save({"net": net, "rest": deep}, tmp_path / "a.pth")
    assert "holds 2 networks that fit, under net. and rest.in." in refused([tmp_path / "a.pth"])
    for _ in range(10):
        deep = {"in": deep}
    torch.save({"net": net, "rest": deep}, tmp_path / "a.pth")
    assert re.search(r"a\.pth: rest\.in\.\S* lies within 16 containers; save", refused([tmp_path / "a.pth"]))


def test_a_container_that_holds_itself_is_read_once(tmp_path: Path) -> None:
    content: State = {"net": networks(1)[0].state_dict()}
    content["again"] = [content]
    torch.save(content, tmp_path / "a.pth")
    assert len(taken([tmp_path / "a.pth"])[0].ensemble.members) == 1


@pytest.mark.parametrize(
    "beside",
    [
        {"cascade": True}, {"type": "cascade"}, {"thresholds": [0.9, 0.8]}, {"thresholds": torch.tensor([0.9, 0.8])},
        {"weights": [0.5, 0.3, 0.2]}, {"alphas": torch.tensor([0.5, 0.3, 0.2])}, {"config": {"fusion": "max"}},
        {"temperature": 1.5},
    ],
)  # fmt: skip
def test_a_fusion_that_is_not_plain_is_asked_for(beside: State, tmp_path: Path) -> None:
    content = {f"model{k}": net.state_dict() for k, net in enumerate(networks())}
    torch.save(content | beside, tmp_path / "a.pth")
    message = refused([tmp_path / "a.pth"])
    assert "fused by more than a plain mean, as it seems. Say how, with --fusion" in message
    found, told = taken([tmp_path / "a.pth"], "--fusion mean_logits")
    assert found.ensemble.fusion == "mean_logits"
    assert f"not used: {next(iter(beside))}" in told


def test_a_single_network_has_no_rule(tmp_path: Path) -> None:
    torch.save({"net": networks(1)[0].state_dict(), "fusion": "cascade"}, tmp_path / "a.pth")
    assert "fus" not in taken([tmp_path / "a.pth"])[1]


def test_bench_own_rule_activation_and_weights_are_used(tmp_path: Path) -> None:
    rename = model_plugin("resnet", {}).own_name
    tensors = joined(
        "members.{}.network.", [{rename(n): t.clone() for n, t in net.state_dict().items()} for net in networks()]
    )
    tensors["fusion.weights"] = torch.tensor([0.5, 0.25, 0.25])
    metadata = {"bench": '{"fusion": "weighted_probability", "activation": "leaky_relu"}'}
    save_file(tensors, tmp_path / "m.safetensors", metadata=metadata)
    found, told = taken([tmp_path / "m.safetensors"])
    assert found.ensemble.weights is not None
    assert (found.ensemble.weights.tolist(), found.activation) == ([0.5, 0.25, 0.25], "leaky_relu")
    assert "with leaky ReLUs" in told
    assert told.endswith("fused by log of weighted mean softmax, weights 0.5 0.25 0.25")
    found, _ = taken([tmp_path / "m.safetensors"], "--activation relu --fusion mean_probability")
    assert (found.ensemble.fusion, found.activation, found.ensemble.weights) == ("mean_probability", "relu", None)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(networks())


def other_files(folder: Path) -> dict[str, Path]:
    """Files that hold more than weights, or none, by what is said of them."""
    said = (
        "could run code", "could run code when loaded", "is a TorchScript archive", "is an ONNX graph", "no weights",
        "is an ONNX graph, no", "is an HDF5 file", "is an array of NumPy", "holds arrays of NumPy",
        "is a zip archive of", "or is damaged",
    )  # fmt: skip
    files = {words: folder / f"{k}.pt" for k, words in enumerate(said)}
    torch.save(Whole(), files["could run code"])
    torch.save({"state_dict": networks(1)[0].state_dict(), "callback": Whole}, files["could run code when loaded"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(files["is a TorchScript archive"]))
    files["is an ONNX graph"] = folder / "net.onnx"
    files["is an ONNX graph"].write_bytes(b"whatever")
    files["is an ONNX graph, no"].write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.4.0:")
    torch.save(torch.ones(3), files["no weights"])
    files["is an HDF5 file"].write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    np.save(folder / "array.npy", np.ones(3))
    (folder / "array.npy").rename(files["is an array of NumPy"])
    np.savez(folder / "arrays.npz", weight=np.ones(3))
    (folder / "arrays.npz").rename(files["holds arrays of NumPy"])
    with zipfile.ZipFile(files["is a zip archive of"], "w") as archive:
        archive.writestr("net.pth", b"")
    files["or is damaged"].write_text("whatever")
    return files


def test_what_is_no_file_of_weights_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for words, file in other_files(tmp_path).items():
        message = refused([file])
        assert words in message
        if not any(part in words for part in ("damaged", "no weights", "zip archive")):
            assert "torch.save(" in message


class Spy:
    """Tells when code of a file runs."""

    def __reduce__(self) -> Any:
        return exec, ("import sys; sys.ran_code_of_a_file = True",)


@pytest.mark.parametrize("where", ["args", "loss", "model"])
def test_no_code_of_a_file_runs(where: str, tmp_path: Path) -> None:
    content = {"model": networks(1)[0].state_dict(), "args": argparse.Namespace(a=Spy() if where == "args" else 1)}
    content |= {"loss": nn.CrossEntropyLoss()}
    if where == "loss":
        content["loss"].spy = Spy()
    if where == "model":
        content["model"]["spy"] = Spy()
    torch.save(content, tmp_path / "a.pth")
    assert "could run code" in refused([tmp_path / "a.pth"])
    assert not hasattr(sys, "ran_code_of_a_file")


def test_objects_beside_weights_are_never_made(tmp_path: Path) -> None:
    state = networks(1)[0].state_dict()
    torch.save({"model": state, "args": argparse.Namespace(lr=1), "acc": np.float64(3)}, tmp_path / "a.pth")
    contents = read(tmp_path / "a.pth")
    assert type(contents.beside["args"]).__module__ == "bench.models.outside"
    assert vars(contents.beside["args"]) == {}
    assert len(contents.tensors) == len(state)


def test_a_map_of_nothing_and_a_prefix_of_nothing_are_told(tmp_path: Path) -> None:
    torch.save(networks(1)[0].state_dict(), tmp_path / "a.pth")
    assert "no name has a part 'stem' for --map" in refused([tmp_path / "a.pth"], "--map stem=conv1")
    assert "no name begins with 'net.'" in refused([tmp_path / "a.pth"], "--prefix net.")
    assert "leave one out" in refused([tmp_path / "a.pth"], "--normalisation none --mean 0")


def test_an_ensemble_for_another_model_is_told_which(tmp_path: Path) -> None:
    states = [net.state_dict() for net in networks()]
    torch.save({"models": states}, tmp_path / "a.pth")
    message = refused([tmp_path / "a.pth"], "--model resnet14")
    assert "it lacks layer1.1" in message
    assert "--model resnet8 does fit" in message
    assert "does fit" not in refused([tmp_path / "a.pth"], "--model resnet14 --map fc=nowhere")


def test_members_of_names_that_no_model_has_are_told_a_model_in_their_order(tmp_path: Path) -> None:
    loaded = config.load()
    lenet = model_plugin("lenet", {}).build(shape=(1, 28, 28), classes=10).state_dict()
    states = [{name.replace("linear", "fc"): tensor for name, tensor in lenet.items()}] * 2
    for content in (states, states[0], {"models": states}):
        torch.save(content, tmp_path / "a.pth")
        given = Given(files=(tmp_path / "a.pth",), name="x", dataset="mnist", model=None)
        told = fitting_models(given, loaded, loaded.dataset("mnist"))
        assert told.startswith(" --model lenet --by-order does fit"), told
    torch.save(lenet, tmp_path / "a.pth")
    assert fitting_models(given, loaded, loaded.dataset("mnist")).startswith(" --model lenet does fit")


def test_weights_for_another_data_set_are_told_which(tmp_path: Path) -> None:
    network = model_plugin("resnet", {"depth": 8, "shortcut": "B"}).build(shape=(3, 32, 32), classes=100)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    message = refused([tmp_path / "a.pth"])
    assert "are --model and --dataset the right ones?" in message
    assert message.endswith("the right ones? They do fit with -d cifar100")


def test_arrays_of_numpy_are_told_from_objects_that_run_code(tmp_path: Path) -> None:
    torch.save({name: tensor.numpy() for name, tensor in networks(1)[0].state_dict().items()}, tmp_path / "a.pth")
    message = refused([tmp_path / "a.pth"])
    assert "arrays of NumPy" in message
    assert "torch.from_numpy" in message
    assert "could run code" not in message


def test_what_is_wrong_is_told_in_the_words_of_the_file(tmp_path: Path) -> None:
    state = networks(1)[0].state_dict()
    torch.save({"net": {**state, "conv1.weight": state["conv1.weight"] * torch.nan}}, tmp_path / "a.pth")
    assert refused([tmp_path / "a.pth"]).endswith(
        "a.pth: conv1.weight holds NaN, or values that are not finite in torch.float32"
    )
    torch.save({"net": {**state, "conv1.weight": state["conv1.weight"][:, :, :1]}}, tmp_path / "a.pth")
    assert "a.pth does not fit the model: conv1.weight is (16, 1, 1, 3)" in refused([tmp_path / "a.pth"])
    torch.save({name: tensor for name, tensor in state.items() if name != "layer1.0.conv2.weight"}, tmp_path / "a.pth")
    assert "it lacks layer1.0.conv2.weight. Is --model" in refused([tmp_path / "a.pth"])


def test_what_a_network_has_beside_the_models_own_is_to_be_left_out_of_the_file(tmp_path: Path) -> None:
    torch.save({**networks(1)[0].state_dict(), "head.weight": torch.ones(10, 64)}, tmp_path / "a.pth")
    message = refused([tmp_path / "a.pth"])
    assert "the model has no head.weight. Is --model the right one? If the network does not need them" in message
    assert "--prefix" not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><title>Virus scan warning", "is a web page"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_a_download_left_instead_of_weights_is_named(content: bytes, said: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refused([tmp_path / name])


def test_shapes_decide_the_order_alone(tmp_path: Path) -> None:
    state = networks(1)[0].state_dict()
    wanted = layouts.Wanted(
        model_plugin("resnet", {"depth": 8, "shortcut": "B"}).build(shape=(1, 8, 8), classes=10).state_dict()
    )
    cut = dict(list(state.items())[1:])
    with pytest.raises(BenchError, match=r"its tensor number 1 is \(16,\), the model wants \(16, 1, 3, 3\)"):
        layouts.recognise(WeightsFile(cut), wanted, Renaming(by_order=True), "a.pth")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_precision_are_converted(kind: torch.dtype) -> None:
    network = torch.nn.Linear(4, 3)
    state = {name: tensor.detach().to(kind) for name, tensor in network.state_dict().items()}
    load(network, dict(state), "x")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert torch.equal(network.weight.detach(), state["weight"].float())
