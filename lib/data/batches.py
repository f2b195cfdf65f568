"""Where the training loop gets its batches from: a set in memory, or one decoded meanwhile.

Both have the method ``epoch(order, size, rngs)``: the batches x [c, B, ...] of one epoch in which
member k of c takes the examples ``order[k]`` (int64 [c, N]), ``size`` at a time; ``rngs(name)``
gives each member's generator of a named draw of this epoch. Images of convolutional networks come
channels-last.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from lib.data.images import Cropper, ImageSet

Rngs = Callable[[str], list[torch.Generator]]


class InMemory:
    """Batches of tensors on the device; with ``augment`` each example is moved by a ``Cropper``."""

    def __init__(self, images: ImageSet, augment: bool, flat: bool):
        x = images.x_train
        self.crop = Cropper(x, images.black) if augment else None
        self.last = not flat and len(x.shape) == 4  # in memory, the channels
        self.base = x.permute(0, 2, 3, 1).contiguous() if self.last else x

    def epoch(self, order: torch.Tensor, size: int, rngs: Rngs) -> Iterator[torch.Tensor]:
        parts = order.to(self.base.device).split(size, 1)
        if self.crop:
            moves = torch.stack([self.crop.draw(order.shape[1], rng) for rng in rngs("crop")])
            for index, move in zip(parts, moves.to(self.base.device).split(size, 1), strict=True):
                yield self.crop(index.flatten(), move.flatten(0, 1)).unflatten(0, index.shape)
            return
        for index in parts:  # index_select copies whole examples: faster than base[index]
            x = self.base.index_select(0, index.flatten()).unflatten(0, index.shape)
            yield x.movedim(-1, 2) if self.last else x


class Streaming:
    """Batches decoded on their way: central crops, or with ``augment`` random ones by own seeds."""

    def __init__(self, images: ImageSet, augment: bool):
        self.x: Any = images.x_train
        self.augment = augment

    def epoch(self, order: torch.Tensor, size: int, rngs: Rngs) -> Iterator[torch.Tensor]:
        parts = order.split(size, 1)
        seeds: list = [None] * len(parts)
        if self.augment:
            drawn = [torch.randint(2**62, order.shape[1:], generator=rng) for rng in rngs("crop")]
            seeds = [part.flatten() for part in torch.stack(drawn).split(size, 1)]
        wanted = zip((index.flatten() for index in parts), seeds, strict=True)
        for x, index in zip(self.x.batches(wanted), parts, strict=True):
            yield x.unflatten(0, index.shape)


def feed(images: ImageSet, *, augment: bool, flat: bool) -> InMemory | Streaming:
    """What gives the batches of ``images``; ``flat``: the network takes its inputs flat."""
    whole = isinstance(images.x_train, torch.Tensor)
    return InMemory(images, augment, flat) if whole else Streaming(images, augment)
