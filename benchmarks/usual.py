"""The other side of each comparison: plain PyTorch loops for one network, bare and as they are
usually written."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.ours import Task
from benchmarks.timing import Contender


def network(task: Task) -> torch.nn.Module:
    """The task's architecture as an ordinary module with ordinary parameters, on its device."""
    module = task.network().to_empty(device=task.device)
    start, _ = task.start(0)
    for rows, named, buffers in (
        (start["weights"], module.named_parameters(), False),
        (start["buffers"], module.named_buffers(), True),
    ):
        views = task.layout.views(rows, buffers=buffers)
        with torch.no_grad():
            for name, tensor in named:
                tensor.copy_(views[name]) if name in views else tensor.zero_()
    return module.train()


def bare(task: Task, channels_last: bool = False, products_alone: bool = False) -> Contender:
    """Forward and backward passes over tensors that lie ready: no optimiser, no mask, no shuffling,
    no measuring.

    This is the most that any loop around these passes could reach in this memory format with
    autograd and all of PyTorch's threads. The batches are slices (views) of one tensor,
    gradients are dropped before each pass. With ``products_alone`` the network has no BatchNorm
    and no ReLU any more: what is left is the time that no fusing of these could save.
    """
    kind = torch.channels_last if channels_last else torch.contiguous_format
    module, x, y = (
        network(task).to(memory_format=kind),
        task.images.x_train.contiguous(memory_format=kind),
        task.images.y_train,
    )
    for parent in list(module.modules()) if products_alone else []:
        for name, part in list(parent.named_children()):
            if isinstance(part, (torch.nn.BatchNorm2d, torch.nn.ReLU)):
                setattr(parent, name, torch.nn.Identity())

    def epoch():
        for start in range(0, len(y), task.batch):
            part = slice(start, start + task.batch)
            module.zero_grad(set_to_none=True)
            F.cross_entropy(module(x[part]), y[part]).backward()
        return len(y)

    return epoch


def _step(module, optimizer, masks, x, y):
    """One training step with the mask applied to the weights after it, as pruning code usually
    does."""
    optimizer.zero_grad()
    logits = module(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for parameter, mask in masks:
            parameter.mul_(mask)
    return loss, logits


def _equipment(task):
    """Module, optimiser and masks (float, as they are usually kept) of one network at the
    benchmark's sparsity."""
    module = network(task)
    optimizer = torch.optim.SGD(module.parameters(), lr=task.lr, momentum=task.momentum)
    masks = task.layout.views(task.start(0)[0]["mask"].float().to(task.device))
    return (
        module,
        optimizer,
        [(p, masks[name]) for name, p in module.named_parameters() if p.dim() > 1],
    )


def tensors(task: Task) -> Contender:
    """One network from tensors: shuffled slices, optimiser and mask each step, and no
    bookkeeping at all."""
    module, optimizer, masks = _equipment(task)
    x, y = task.images.x_train, task.images.y_train

    def epoch():
        for index in torch.randperm(len(y)).split(task.batch):
            _step(module, optimizer, masks, x[index], y[index])
        return len(y)

    return epoch


def loader(task: Task, workers: int = 0, pictures: bool = False) -> Contender:
    """The usual pattern: a shuffling DataLoader, SGD, mask re-applied, loss and accuracy read off
    at each step.

    ``pictures``: examples are PIL images with torchvision's transforms (crop and flip for colour images, tensor,
    normalisation), as torchvision's own datasets give them; else they come from a ``TensorDataset``. Workers stay
    alive between epochs, so that starting them is not counted.
    """
    module, optimizer, masks = _equipment(task)
    examples = (
        Pictures(task) if pictures else TensorDataset(task.images.x_train, task.images.y_train)
    )
    batches = DataLoader(
        examples,
        batch_size=task.batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def epoch():
        seen, losses, hits = 0, 0.0, 0
        for x, y in batches:
            loss, logits = _step(module, optimizer, masks, x, y)
            losses += loss.item() * len(y)
            hits += (logits.argmax(1) == y).sum().item()
            seen += len(y)
        return seen

    return epoch


class Pictures(Dataset):
    """Bytes to PIL image to tensor, one example at a time: what
    ``torchvision.datasets.CIFAR10`` and ``MNIST`` do."""

    def __init__(self, task: Task):
        from torchvision import transforms

        x = task.images.x_train
        low, high = x.min(), x.max()
        self.pixels = (
            ((x - low) / (high - low) * 255).to(torch.uint8).permute(0, 2, 3, 1).squeeze(-1).numpy()
        )
        self.labels = task.images.y_train.tolist()
        channels = x.shape[1]
        move = (
            [transforms.RandomCrop(x.shape[-1], padding=4), transforms.RandomHorizontalFlip()]
            if task.augment
            else []
        )
        normal = transforms.Normalize((0.5,) * channels, (0.25,) * channels)
        self.transform = transforms.Compose([*move, transforms.ToTensor(), normal])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]
