"""Where the training loop gets its batches from: a set in memory, or one that is decoded while it trains.

Both have the method ``epoch(order, size, rngs)``: the batches x [c, B, ...] of one epoch in which member k of c takes the examples
``order[k]`` (int64 [c, N]), ``size`` at a time; ``rngs(name)`` gives each member's generator of a named draw of this epoch. Images of
convolutional networks come channels-last.
"""

from collections.abc import Callable, Iterator

import torch

from lib.data import sets

Rngs = Callable[[str], list[torch.Generator]]


class InMemory:
    """Batches of tensors that lie on the device; with ``augment`` each example is moved and flipped by ``sets.Cropper``."""

    def __init__(self, images: sets.ImageSet, augment: bool, flat: bool):
        self.images = images
        self.crop = sets.Cropper(images.x_train, images.black) if augment else None
        x = images.x_train
        self.base = x if flat or x.dim() != 4 else x.permute(0, 2, 3, 1).contiguous()

    def epoch(self, order: torch.Tensor, size: int, rngs: Rngs) -> Iterator[torch.Tensor]:
        """See the module."""
        device, moves = self.base.device, None
        if self.crop:
            moves = (
                torch.stack([self.crop.draw(order.shape[1], rng) for rng in rngs("crop")])
                .to(device)
                .split(size, 1)
            )
        for step, index in enumerate(order.to(device).split(size, 1)):
            if moves is not None:
                yield self.crop(index.flatten(), moves[step].flatten(0, 1)).unflatten(
                    0, index.shape
                )
                continue
            x = self.base.index_select(0, index.flatten()).unflatten(
                0, index.shape
            )  # copies whole examples: faster than base[index]
            yield x if self.base is self.images.x_train else x.movedim(-1, 2)


class Streaming:
    """Batches that are decoded on their way; with ``augment`` each example is a random crop by a seed of its own, else a central one."""

    def __init__(self, images: sets.ImageSet, augment: bool):
        self.x, self.augment = images.x_train, augment

    def epoch(self, order: torch.Tensor, size: int, rngs: Rngs) -> Iterator[torch.Tensor]:
        """See the module."""
        parts, seeds = order.split(size, 1), None
        if self.augment:
            seeds = torch.stack(
                [torch.randint(2**62, order.shape[1:], generator=rng) for rng in rngs("crop")]
            ).split(size, 1)
        wanted = (
            (index.flatten(), seeds[step].flatten() if self.augment else None)
            for step, index in enumerate(parts)
        )
        for x, index in zip(self.x.batches(wanted), parts, strict=True):
            yield x.unflatten(0, index.shape)


def feed(images: sets.ImageSet, *, augment: bool, flat: bool) -> InMemory | Streaming:
    """The feed that suits ``images``; ``flat`` says that the network takes its inputs flat, so that their layout does not matter."""
    return (
        InMemory(images, augment, flat)
        if isinstance(images.x_train, torch.Tensor)
        else Streaming(images, augment)
    )
