"""What a set of images is, and what is done to it: normalisation, label noise, crops."""

from dataclasses import dataclass
from typing import Any

import torch

from lib import rng

CONSTANTS = {  # mean and standard deviation of each channel, for pixels in [0, 1]
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    # the released price code's, for CIFAR-10 and CIFAR-100 alike
    "cifar10-code": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    # the gradient-flow study's code, and torchvision's networks
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
NORMALISATIONS = ("none", "channel", *list(CONSTANTS)[1:])
NOISES = ("symmetric", "flip")


class DataError(ValueError):
    """A data set that is missing, malformed or too small; the message says what to do."""


def require(holds: Any, says: str) -> None:
    """Raise ``DataError`` with what it ``says`` unless the condition ``holds``."""
    if not holds:
        raise DataError(says)


def require_count(part: str, count: int | None, there: int, name: str) -> None:
    """Raise ``DataError`` for a ``count`` of examples other than 1 to as many as are ``there``."""
    require(
        count is None or 1 <= count <= there,
        f"{part}_examples is {count}; {name!r} has 1 to {there} {part} examples",
    )


@dataclass(frozen=True)
class ImageSet:
    """Tensors on a device. ``x_*`` float32 [N, C, H, W] or [N, D], ``y_*`` int64 [N].

    ``fingerprint`` is a hash of exactly these examples; ``black`` [C] is the value of a zero pixel.
    Of a folder, ``x_*`` are ``folder.Streamed``: sliced, they give tensors.
    """

    name: str
    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    classes: int
    fingerprint: str
    black: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch."""
        return tuple(self.x_train.shape[1:])


@rng.on_threads(1)
def normalised(
    train: torch.Tensor, test: torch.Tensor, how: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both parts, float32 [N, C, H, W] or [N, D] in [0, 1], normalised; and the value of black [C].

    ``how`` is ``"channel"`` (mean 0 and standard deviation 1 of each channel over ``train``; [N, D]
    is one channel) or one of ``CONSTANTS``, which but for ``"none"`` need three channels.
    """
    black = train.new_zeros((1, train.shape[1], 1, 1) if train.dim() == 4 else (1, 1))
    if how == "none":
        return train, test, black.flatten()
    if how == "channel":
        axes = (0, 2, 3) if train.dim() == 4 else (0, 1)
        mean, std = train.mean(axes, keepdim=True), train.std(axes, keepdim=True)
    else:
        require(black.shape == (1, 3, 1, 1), f"normalise={how!r} is for images of three channels")
        mean, std = (torch.tensor(c, device=train.device).view_as(black) for c in CONSTANTS[how])
    return (train - mean) / std, (test - mean) / std, ((black - mean) / std).flatten()


def noisy_labels(
    labels: torch.Tensor, rate: float, classes: int, seed: int, kind: str = "symmetric"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Label noise drawn from ``seed``: (given labels int64 [N], bool [N]: where they are wrong).

    round(rate * N) examples are picked. ``kind="symmetric"``: each gets a label uniform over all
    classes, its own included, so that about rate * (1 - 1/C) are wrong (the price study's code);
    ``"flip"``: uniform over the others.
    """
    stream, given = rng.generator(seed, "noise", kind), labels.cpu().clone()
    picked = torch.randperm(len(given), generator=stream)[: round(rate * len(given))]
    drawn = torch.randint(int(kind == "flip"), classes, (len(picked),), generator=stream)
    given[picked] = (given[picked] + drawn) % classes if kind == "flip" else drawn
    return given, given != labels.cpu()


class Cropper:
    """Pad-4 random crop and horizontal flip of whole batches (He et al. 2016, section 4.2).

    The padding is black: ``black`` [C] is that value after normalisation. The padded set
    [N, H+8, W+8, C] stays on the device, so that a batch is one gather.
    """

    def __init__(self, images: torch.Tensor, black: torch.Tensor, pad: int = 4):
        n, channels, height, width = images.shape
        self.padded = black.expand(n, height + 2 * pad, width + 2 * pad, channels).clone()
        self.padded[:, pad:-pad, pad:-pad] = images.permute(0, 2, 3, 1)
        self.choices = 2 * pad + 1
        self.rows, self.columns = (
            torch.arange(side, device=images.device) for side in (height, width)
        )

    def draw(self, count: int, stream: torch.Generator) -> torch.Tensor:
        """One epoch's draws for ``count`` examples, int64 [count, 3]: row offset, column, flip."""
        offsets = torch.randint(self.choices, (count, 2), generator=stream)
        return torch.cat((offsets, torch.randint(2, (count, 1), generator=stream)), 1)

    def __call__(self, index: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        """The examples ``index`` [B] moved by ``draw`` [B, 3]: [B, C, H, W], channels-last."""
        rows = draw[:, :1] + self.rows
        columns = draw[:, 1:2] + torch.where(draw[:, 2:] == 1, self.columns.flip(0), self.columns)
        moved = self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)
