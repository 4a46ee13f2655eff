"""Networks by name: shapes, sizes known from closed forms and papers, settings, errors."""

from __future__ import annotations

import math

import pytest
import torch
from common_resnet import CommonResNet
from torch import nn

from bench.core.errors import BenchError
from bench.data.digits import Digits
from bench.data.vision import CIFAR10, CIFAR100, MNIST, FashionMNIST
from bench.models.build import build_member, model_plugin
from bench.models.normalise import Normalise
from bench.models.residual import ResidualBlock

DATASETS = [Digits, MNIST, FashionMNIST, CIFAR10, CIFAR100]


PADDED, PROJECTED = ("resnet", {}), ("resnet", {"shortcut": "B"})
NETWORKS = [("digits_cnn", {}), ("lenet", {}), ("small_cnn", {}), PADDED, PROJECTED]
EVERY = [*NETWORKS, ("timm/resnet18", {})]


def weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(("model", "settings"), NETWORKS)
def test_members_give_one_logit_a_class(model, settings, dataset):
    if model in ("lenet", "small_cnn") and dataset is Digits:
        pytest.skip("not for this model: it needs 16 pixels, see below")
    member = build_member(model, settings, dataset=dataset())
    x = torch.rand(3, *dataset.shape)
    logits = member(x)
    assert logits.shape == (3, dataset.classes)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in member.parameters())


@pytest.mark.parametrize(("model", "settings"), EVERY)
def test_every_relu_is_a_module_of_its_own_and_not_in_place(model, settings):
    member = build_member(model, settings, dataset=CIFAR10())
    named = [name for name, part in member.named_modules(remove_duplicate=False) if isinstance(part, nn.ReLU)]
    relus = [part for part in member.modules() if isinstance(part, nn.ReLU)]
    assert len(named) == len(relus) > 0
    assert not any(relu.inplace for relu in relus)


def test_resnet_20_has_the_papers_number_of_parameters():
    # He et al. 2016, table 6: 0.27M, 0.46M, 0.66M, 0.85M, 1.7M for these depths.
    for depth, millions in ((20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)):
        network = model_plugin("resnet", {"depth": depth}).build(shape=(3, 32, 32), classes=10)
        assert round(weights(network) / 1e6, 2 if millions < 1 else 1) == millions
        convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
        assert len(convolutions) + 1 == depth  # and the linear layer


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 10), (3, 100)])
def test_projections_stand_where_size_and_width_change_and_have_the_public_codes_number_of_parameters(
    channels, classes
):
    padded, projected = (
        model_plugin(*model).build(shape=(channels, 32, 32), classes=classes) for model in (PADDED, PROJECTED)
    )
    assert weights(projected) - weights(padded) == 2_752
    added = {name: tuple(t.shape) for name, t in projected.named_parameters() if name not in padded.state_dict()}
    assert added == {
        "stage2.0.shortcut.conv.weight": (32, 16, 1, 1), "stage2.0.shortcut.bn.weight": (32,),
        "stage2.0.shortcut.bn.bias": (32,), "stage3.0.shortcut.conv.weight": (64, 32, 1, 1),
        "stage3.0.shortcut.bn.weight": (64,), "stage3.0.shortcut.bn.bias": (64,),
    }  # fmt: skip
    # The public files have them behind the block's second normalisation; `--by-order` takes tensors as they come.
    names = list(projected.state_dict())
    assert names.index("stage2.0.shortcut.conv.weight") == names.index("stage2.0.bn2.num_batches_tracked") + 1


def test_the_projection_is_a_strided_mix_of_channels_then_batch_normalisation():
    block = ResidualBlock(2, 4, stride=2, shortcut="B").double()
    x = torch.rand(3, 2, 6, 6, dtype=torch.float64)
    mixed = torch.einsum("oc,bchw->bohw", block.shortcut.conv.weight[:, :, 0, 0], x[:, :, ::2, ::2])
    mean, variance = mixed.mean((0, 2, 3), keepdim=True), mixed.var((0, 2, 3), keepdim=True, unbiased=False)
    assert torch.allclose(block.shortcut(x), (mixed - mean) / (variance + 1e-5).sqrt())


@pytest.mark.parametrize("settings", [{}, {"shortcut": "B"}])
def test_resnet_weights_start_as_in_the_public_code(settings):
    torch.manual_seed(0)
    network = model_plugin("resnet", {"width": 64, **settings}).build(shape=(3, 32, 32), classes=10)
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d):
            spread = math.sqrt(2 / (part.kernel_size[0] * part.kernel_size[1] * part.out_channels))
            few = 5 / math.sqrt(part.weight.numel())  # five standard errors
            assert float(part.weight.detach().std() / spread) == pytest.approx(1, abs=few), name
            assert abs(float(part.weight.detach().mean() / spread)) < few, name
            assert float(part.weight.detach().abs().max()) > 2.5 * spread, name  # a normal distribution, no uniform one
        if isinstance(part, nn.BatchNorm2d):
            assert bool((part.weight == 1).all() and (part.bias == 0).all()), name
    linear = network.linear
    bound = 1 / math.sqrt(linear.in_features)
    assert 0.99 * bound < float(linear.weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("settings", [{}, {"shortcut": "B"}])
def test_resnet_shrinks_and_widens_as_the_paper_says(settings):
    network = model_plugin("resnet", settings).build(shape=(3, 32, 32), classes=10)
    x = torch.rand(2, 3, 32, 32)
    sizes = {}
    for name, part in network.named_children():
        x = part(x)
        sizes[name] = tuple(x.shape[1:])
    assert (sizes["stage1"], sizes["stage2"], sizes["stage3"]) == ((16, 32, 32), (32, 16, 16), (64, 8, 8))


def test_the_shortcut_is_every_second_pixel_and_zero_channels():
    block = ResidualBlock(2, 4, stride=2)
    x = torch.rand(1, 2, 6, 6)
    out = block.shortcut(x)
    assert torch.equal(out[:, 1:3], x[:, :, [0, 2, 4]][:, :, :, [0, 2, 4]])
    assert not out[:, [0, 3]].any()
    assert torch.equal(ResidualBlock(2, 2).shortcut(x), x)


@pytest.mark.parametrize("depth", [19, 21, 2, 0])
def test_depths_that_are_not_6n_plus_2_are_refused(depth):
    with pytest.raises(BenchError, match=rf"6n\+2.*not {depth}"):
        model_plugin("resnet", {"depth": depth})


def test_other_shortcuts_are_refused():
    with pytest.raises(BenchError, match=r"A \(padding\) or B \(projection\), not 'C'"):
        model_plugin("resnet", {"shortcut": "C"})


@pytest.mark.parametrize(("shape", "inner"), [((1, 28, 28), 4 * 4), ((3, 32, 32), 5 * 5)])
def test_lenet_has_the_size_of_its_closed_form(shape, inner):
    network = model_plugin("lenet", {}).build(shape=shape, classes=10)
    assert weights(network) == (shape[0] * 25 + 1) * 20 + (20 * 25 + 1) * 50 + (50 * inner + 1) * 500 + 501 * 10


def test_lenet_says_that_digits_are_too_small():
    with pytest.raises(BenchError, match="16×16 pixels or more, not 8×8"):
        build_member("lenet", {}, dataset=Digits())


def test_small_cnn_has_the_names_and_the_size_of_the_public_network():
    network = model_plugin("small_cnn", {}).build(shape=(1, 28, 28), classes=10)
    layers = [f"feature_extractor.conv{k}" for k in (1, 2, 3, 4)] + [f"classifier.fc{k}" for k in (1, 2, 3)]
    assert list(network.state_dict()) == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    convolutions = (9 + 1) * 32 + (32 * 9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 64
    assert weights(network) == convolutions + (64 * 4 * 4 + 1) * 200 + 201 * 200 + 201 * 10
    with pytest.raises(BenchError, match="16×16 pixels or more, not 8×8"):
        build_member("small_cnn", {}, dataset=Digits())


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_parameters_of_a_resnet_have_common_names_and_keep_their_order(shortcut):
    model = model_plugin("resnet", {"depth": 14, "shortcut": shortcut})
    ours = list(model.build(shape=(1, 8, 8), classes=10).state_dict())
    common = [model.common_name(name) for name in ours]
    theirs = list(CommonResNet(2).state_dict())
    assert common == [name for name in theirs if shortcut == "B" or "downsample" not in name]
    for named in (common, [name.replace("downsample", "shortcut").replace("fc.", "linear.") for name in common], ours):
        assert [model.own_name(name) for name in named] == ours


def test_other_models_have_no_other_names():
    model = model_plugin("lenet", {})
    assert model.common_name("conv1.weight") == model.own_name("conv1.weight") == "conv1.weight"


def test_digits_cnn_has_the_size_it_states_and_no_batch_normalisation():
    network = model_plugin("digits_cnn", {}).build(shape=(1, 8, 8), classes=10)
    assert weights(network) == 58_314
    assert not any("Norm" in type(part).__name__ for part in network.modules())


@pytest.mark.parametrize(("model", "settings"), EVERY)
def test_dropout_stands_before_the_last_layer_and_renames_nothing(model, settings):
    torch.manual_seed(0)
    plain = build_member(model, settings, dataset=CIFAR10()).eval()
    torch.manual_seed(0)
    dropping = build_member(model, {"dropout": 0.5, **settings}, dataset=CIFAR10()).eval()
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain(x), dropping(x))
    dropping.train()
    for part in dropping.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    assert not torch.equal(dropping(x), dropping(x))
    with pytest.raises(BenchError, match="dropout"):
        build_member(model, {"dropout": 1.0}, dataset=CIFAR10())


def test_initialisation_follows_the_global_seed():
    def member(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_member("timm/resnet18", {}, dataset=CIFAR10()).state_dict()["network.fc.weight"]

    assert torch.equal(member(1), member(1))
    assert not torch.equal(member(1), member(2))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_timm_models_fit_channels_classes_and_size(name):
    member = build_member(f"timm/{name}", {}, dataset=CIFAR100())
    assert member(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    assert member.training


def test_timm_errors_are_one_clear_line():
    with pytest.raises(BenchError, match=r"did you mean .*resnet18"):
        build_member("timm/resnet_18", {}, dataset=CIFAR10())
    with pytest.raises(BenchError, match=r"timm/vit_tiny_patch16_224 cannot be built for 1 channels of 8×8 pixels: \w"):
        build_member("timm/vit_tiny_patch16_224", {}, dataset=Digits())
    with pytest.raises(BenchError, match="needs its architecture's name"):
        model_plugin("timm", {})


def test_unknown_models_settings_and_activations_get_the_nearest_name():
    with pytest.raises(BenchError, match="did you mean lenet"):
        model_plugin("lenett", {})
    with pytest.raises(BenchError, match="did you mean depth"):
        model_plugin("resnet", {"dept": 20})
    with pytest.raises(BenchError, match="timm/resnet18"):
        model_plugin("tim/resnet18", {})
    with pytest.raises(BenchError, match="did you mean leaky_relu"):
        build_member("lenet", {}, dataset=MNIST(), activation="leaky")


@pytest.mark.parametrize(("model", "settings"), EVERY)
def test_leaky_relu_takes_the_place_of_every_relu_and_nothing_else_changes(model, settings):
    torch.manual_seed(0)
    plain = build_member(model, settings, dataset=CIFAR10())
    torch.manual_seed(0)
    leaky = build_member(model, settings, dataset=CIFAR10(), activation="leaky_relu")
    places = {name for name, part in plain.named_modules() if isinstance(part, nn.ReLU)}
    assert {name for name, part in leaky.named_modules() if isinstance(part, nn.LeakyReLU)} == places
    assert not any(isinstance(part, nn.ReLU) for part in leaky.modules())
    assert all(part.negative_slope == 0.1 for part in leaky.modules() if isinstance(part, nn.LeakyReLU))
    for one, other in zip(plain.state_dict().values(), leaky.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_leaky_relu_without_a_relu_to_replace_is_refused():
    with pytest.raises(BenchError, match="no ReLU"):
        build_member("timm/vit_tiny_patch16_224", {}, dataset=CIFAR10(), activation="leaky_relu")


def test_normalisation_is_the_first_layer_and_moves_with_the_member():
    dataset = CIFAR10()
    member = build_member("resnet", {}, dataset=dataset).double().eval()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    by_hand = torch.stack([(x[:, c] - dataset.mean[c]) / dataset.std[c] for c in range(3)], dim=1)
    # The constants are stored in float32.
    assert torch.allclose(member.normalise(x), by_hand, atol=1e-6)
    assert torch.equal(member(x), member.network(member.normalise(x)))
    assert {"normalise.mean", "normalise.std"} <= member.state_dict().keys()


def test_normalisation_refuses_what_cannot_be():
    with pytest.raises(BenchError, match="one number a channel"):
        Normalise((0.5,), (0.5, 0.5))
    with pytest.raises(BenchError, match="above 0"):
        Normalise((0.5,), (0.0,))
