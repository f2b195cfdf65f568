"""The optimiser step of a group of members: taken plainly, or recorded once and replayed.

On a GPU a step of small networks is mostly the launching of its hundreds of kernels. A *recorder*
takes a step, a function without arguments that reads and writes fixed memory alone, and returns one
that does the same again in a single launch. What it has recorded is believed only after it has
repeated the plain step on a first batch; where it does not, or cannot be recorded, a warning says
so and every step is plain.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch

from lib.training.cohort import Cohort, decays, sgd_
from lib.training.engines import Engine

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
# Of a step, for sums in another order: rounding that turns a few rectifiers moves the gradient of a
# ResNet-20 by up to 0.011 (float32 on two of the CPU's engines, against float64).
TOLERANCE = 0.05


def graph(step: Callable[[], None]) -> Callable[[], None]:
    """Record ``step`` as a CUDA graph. It runs once, as graphs ask for, and is then captured.

    What it allocates on its way stays with the graph. Raises ``RuntimeError`` for what cannot be
    captured: a value that is read on the host, memory that is short.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        step()
    torch.cuda.current_stream().wait_stream(aside)
    captured = torch.cuda.CUDAGraph()
    # other threads may go on decoding images
    with torch.cuda.graph(captured, capture_error_mode="thread_local"):
        step()
    return captured.replay


RECORDERS: dict[str, Recorder] = {"cuda": graph}  # by the kind of device


class Step:
    """What takes the steps of the members ``rows``; it is called once for each batch.

    Where their device has a recorder, each shape of batch is recorded when it first comes, but for
    members with objectives. Masks may change meanwhile: ``Cohort.remask`` changes in place what a
    step reads.
    """

    def __init__(self, rows: Cohort, engine: Engine):
        recipes, device = [member.run.recipe for member in rows.members], rows.weights.device
        self.rows, self.engine, self.recipe = rows, engine, recipes[0]
        self.decay = decays(recipes, rows.layout, device)
        self.changed = [rows.weights, rows.buffers, rows.velocity, rows.gradients]
        plainly = any(member.run.objective for member in rows.members)
        self.recorder = None if plainly else RECORDERS.get(device.type)
        self.recorded: dict[tuple, Callable] = {}  # by the shape of x, and whether all live

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, rate: float | torch.Tensor,
        between: Callable[[], object] = lambda: None,
    ) -> torch.Tensor:  # fmt: skip
        """Take a step on x [c, B, ...] and y [c, B] with a ``rate`` as of ``sgd_``; the losses [c].

        They are good until the next step. What comes ``between`` gradients and optimiser may add to
        the gradients, where steps are plain.
        """
        if self.recorder is None:
            return self._plain(x, y, rate, between)
        kind = (x.shape, self.rows.bits is None)
        known = self.recorded.get(kind)
        return known(x, y, rate) if known else self._record(self.recorder, kind, x, y, rate)

    def _plain(self, x, y, rate, between=lambda: None):
        losses = self.engine.gradients(x, y)
        between()
        sgd_(self.rows, rate, self.recipe.momentum, self.recipe.nesterov, self.decay)
        return losses

    def _record(self, recorder, kind, x, y, rate):
        """Take a plain step; keep a recorded one if it does the same from the same state."""
        before = [value.clone() for value in self.changed]
        losses = self._plain(x, y, rate)
        truth, own = [value.clone() for value in self.changed], torch.zeros_like(losses)
        memory = [x.clone(), y.clone(), own.new_zeros(len(y), 1)]

        def step():
            own.copy_(self._plain(*memory))

        try:
            known = partial(_replayed, recorder(step), memory, own)
            _put(self.changed, before)
            known(x, y, rate)
            alike = _alike(
                [*before, torch.zeros_like(memory[2])], [*truth, losses[:, None]],
                [*self.changed, own[:, None]], TOLERANCE,
            )  # fmt: skip
            why = "" if alike else "replayed, it ends elsewhere"
        except RuntimeError as error:
            why = f"it cannot be recorded: {str(error).splitlines()[0]}"
        _put(self.changed, truth)
        if why:
            warnings.warn(f"each step of {len(y)} networks is taken plainly: {why}", stacklevel=2)
            self.recorder = None
        else:
            self.recorded[kind] = known
        return losses


def _put(owns, values):
    for own, value in zip(owns, values, strict=True):
        own.copy_(torch.as_tensor(value))


def _replayed(replay, memory, losses, x, y, rate):
    """Put a batch and its rate where a recorded step reads them, and replay it."""
    _put(memory, (x, y, rate))
    replay()
    return losses


def _alike(before, truth, found, tolerance):
    """Whether every member is found where it belongs, but for a small part of its way there.

    One that is not finite there has diverged, and counts no more.
    """
    for old, right, seen in zip(before, truth, found, strict=True):
        sound = right.isfinite().all(1)
        off, moved, size = (v[sound].norm(dim=1) for v in (seen - right, right - old, right))
        if not (off <= tolerance * moved + 1e-6 * size).all():
            return False
    return True
