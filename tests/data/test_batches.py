"""Batches and augmentation against naive loops over images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.data.augment import Augmentation, AugmentationDraws
from bench.data.base import ImageSet, unit
from bench.data.digits import Digits
from bench.data.loader import batches, spans
from bench.data.vision import CIFAR10


def image_set(n: int, shape: tuple[int, int, int] = (3, 6, 5)) -> ImageSet:
    pixels = torch.randint(256, (n, *shape), generator=generator("pixels"))
    return ImageSet(pixels.to(torch.uint8), torch.arange(n) % 10)


def naive(images: Tensor, draws: AugmentationDraws, padding: int) -> Tensor:
    """Pixel by pixel: where in the padded image does this pixel come from?"""
    out = torch.zeros_like(images)
    _, _, height, width = images.shape
    for i, image in enumerate(images):
        for row in range(height):
            for column in range(width):
                source_column = width - 1 - column if draws.flip[i] else column
                r = row + int(draws.down[i]) - padding
                c = source_column + int(draws.right[i]) - padding
                if 0 <= r < height and 0 <= c < width:
                    out[i, :, row, column] = image[:, r, c]
    return out


@pytest.mark.parametrize(("padding", "mirror"), [(0, False), (0, True), (2, False), (4, True)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_and_mirror_equal_a_loop_over_pixels(padding, mirror, dtype):
    images = image_set(12).images.to(dtype)
    augmentation = Augmentation(padding, mirror)
    draws = augmentation.draw(12, generator("draws"))
    assert torch.equal(augmentation.apply(images, draws), naive(images, draws, padding))


def test_draws_cover_every_offset_and_both_sides_evenly():
    draws = Augmentation(4, True).draw(9_000, generator("many"))
    for offsets in (draws.down, draws.right):
        counts = offsets.bincount()
        assert len(counts) == 9
        assert (counts - 1000).abs().max() < 160  # five standard deviations
    assert abs(int(draws.flip.sum()) - 4500) < 240
    assert torch.corrcoef(torch.stack([part.float() for part in draws])).fill_diagonal_(0).abs().max() < 0.06


def test_the_published_augmentation_is_that_of_the_data_set():
    assert Augmentation.published(Digits()) is None
    assert Augmentation.published(CIFAR10()) == Augmentation(padding=4, mirror=True)
    with pytest.raises(BenchError, match="padding"):
        Augmentation(-1)


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [(10, 4, [4, 6]), (12, 4, [4, 4, 4]), (11, 8, [11]), (12, 8, [8, 4]), (3, 8, [3]), (5, 2, [2, 3]), (4, 1, [1] * 4),
     (0, 4, []), (131, 128, [131]), (132, 128, [128, 4])],
)  # fmt: skip
def test_a_last_batch_of_fewer_than_four_joins_the_one_before(n, size, lengths):
    cuts = spans(n, size)
    assert [len(range(n)[cut]) for cut in cuts] == lengths
    assert [i for cut in cuts for i in range(n)[cut]] == list(range(n))


def test_an_epoch_without_a_generator_is_in_order_and_exact():
    images = image_set(10)
    got = list(batches(images, batch_size=4))
    assert torch.equal(torch.cat([batch.x for batch in got]), images.floats())
    assert torch.equal(torch.cat([batch.y for batch in got]), images.labels)
    assert torch.cat([batch.indices for batch in got]).tolist() == list(range(10))


def test_a_shuffled_epoch_shows_every_image_once_with_its_label():
    images = image_set(50)
    got = list(batches(images, batch_size=8, generator=generator(1)))
    indices = torch.cat([batch.indices for batch in got])
    assert indices.tolist() != list(range(50))
    assert sorted(indices.tolist()) == list(range(50))
    for x, y, at in got:
        assert torch.equal(x, images.images[at] / 255)
        assert torch.equal(y, images.labels[at])


def test_the_same_seed_gives_the_same_augmented_images_at_every_batch_size():
    images = image_set(50)
    epochs = [
        torch.cat(
            [
                batch.x
                for batch in batches(images, batch_size=size, generator=generator(1), augment=Augmentation(2, True))
            ]
        )
        for size in (8, 8, 25)
    ]
    assert torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])
    other = torch.cat(
        [b.x for b in batches(images, batch_size=8, generator=generator(2), augment=Augmentation(2, True))]
    )
    assert not torch.equal(epochs[0], other)


def test_augmented_batches_are_the_images_they_say_they_are():
    images = image_set(20)
    seed = generator(3)
    order = torch.randperm(20, generator=seed)
    draws = Augmentation(2, True).draw(20, seed)
    expected = naive(images.images[order], draws, 2) / 255
    got = list(batches(images, batch_size=8, generator=generator(3), augment=Augmentation(2, True)))
    assert torch.equal(torch.cat([batch.x for batch in got]), expected)
    assert torch.equal(torch.cat([batch.indices for batch in got]), order)


def test_wrong_use_is_refused_at_once():
    with pytest.raises(ValueError, match="1 image"):
        batches(image_set(4), batch_size=0)
    with pytest.raises(ValueError, match="generator"):
        batches(image_set(4), batch_size=2, augment=Augmentation(1))


def test_pixels_are_divided_as_a_gpu_divides_too():
    """By a number a GPU multiplies with its reciprocal: 126 of 256 levels would be others than on a CPU."""
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(unit(levels).double(), (levels.double() / 255).float().double())
    assert int((levels * torch.tensor(1 / 255) != levels / 255).sum()) == 126

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ == "div_":
                divisors.append(args[1])
            return func(*args, **(kwargs or {}))

    divisors = []
    with Watch():
        unit(levels.to("meta"))  # a tensor on the CPU would be taken for a number
    assert [divisor.device.type for divisor in divisors] == ["meta"]


@pytest.mark.gpu
def test_a_gpu_sees_the_batches_that_a_cpu_sees():
    images = image_set(50)
    augment = Augmentation(2, True)
    cpu = batches(images, batch_size=8, generator=generator(1), augment=augment)
    gpu = batches(images.to("cuda"), batch_size=8, generator=generator(1), augment=augment)
    for one, other in zip(cpu, gpu, strict=True):
        assert other.x.is_cuda
        assert all(torch.equal(a, b.cpu()) for a, b in zip(one, other, strict=True))
