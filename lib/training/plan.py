"""Who trains with whom: the members of a cohort in groups, each with the passes that suit it."""

from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from lib.data import sets
from lib.models import flops
from lib.sparse import live
from lib.training import engines, steps, threads
from lib.training.cohort import Cohort, Member, filled


@dataclass
class Group:
    """Members that take each step together; ``rows`` are views of their cohort's."""

    rows: Cohort
    network: nn.Module
    images: sets.ImageSet
    sparse: bool  # whether a step costs their live weights alone
    engine: engines.Engine
    step: steps.Step
    threads: int  # in a step

    @property
    def members(self) -> list[Member]:
        """Whose rows these are, in their order."""
        return self.rows.members

    def module(self, k: int) -> nn.Module:
        """The network of member ``k`` as it is now, in eval mode."""
        device = self.rows.weights.device
        return filled(self.network, self.rows.weights[k], self.rows.buffers[k], device)


def sparsely(rows: Cohort, network: nn.Module, images: sets.ImageSet) -> list[bool]:
    """For each member, whether its steps are taken at the cost of its live weights: by its own mask
    and specification alone, whoever else is in the cohort."""
    recipe = rows.members[0].run.recipe
    other = recipe.threads > 1 or recipe.label_smoothing or recipe.micro_batch
    if rows.weights.device.type != "cpu" or recipe.precision != "float32" or other:
        return [False] * len(rows)
    masks = (rows.layout.views(row) for row in rows.mask)
    return [live.pays(network, mask, images.shape, recipe.batch_size) for mask in masks]


def arranged(
    cohort: Cohort, network: nn.Module, images: sets.ImageSet, cores: int
) -> tuple[Cohort, list[Group], threads.Workers]:
    """The cohort with those whose live weights are few behind the others, its groups, the workers:
    they follow from the size of the work. On a GPU all are one group, whose steps are recorded; but
    for those with an objective, another."""
    if not cohort.members:
        return cohort, [], threads.Workers(1)
    kinds = sparsely(cohort, network, images)
    heavy = [member.run.objective is not None for member in cohort.members]
    order = sorted(range(len(kinds)), key=lambda k: (kinds[k], heavy[k]))
    if order != sorted(order):
        cohort, kinds = cohort[order], sorted(kinds)
    recipe, dense = cohort.members[0].run.recipe, kinds.count(False)
    work = flops.training(flops.forward(network, images.shape), recipe.batch_size)
    sizes, workers, each = [n for n in map(heavy.count, (False, True)) if n], 1, cores
    if cohort.weights.device.type == "cpu":
        batched = engines.batched(network, recipe)
        sizes, workers, each = threads.plan(
            dense, len(kinds) - dense, work, batched, cores, recipe.threads
        )
    groups = []
    for stop, size in zip(accumulate(sizes), sizes, strict=True):
        rows, sparse = cohort[stop - size : stop], kinds[stop - size]
        engine = engines.engine(rows, network, recipe, images.shape if sparse else None, work)
        step = steps.Step(rows, engine)
        groups.append(Group(rows, network, images, sparse, engine, step, each))
    return cohort, groups, threads.Workers(workers)
