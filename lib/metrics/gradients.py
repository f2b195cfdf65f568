"""Per-example gradients from one forward and one backward pass: norms, dot products, cosines, sums of squares.

The parameters are frozen, each layer's input a and output z are kept, and one ``autograd.grad`` in the outputs alone
gives δ. From a and δ follow, without any per-example weight gradient in memory beyond a chunk, the numbers of each layer:

=============  ======================================================  ========================
layer          squared norm of the gradient under the mask M           dot product with D
=============  ======================================================  ========================
linear         Σ_o δ_o² (M a²)_o, and Σ δ² for the bias                δ · (D a + d_b)
convolution    G = δ Uᵀ per example, U the patches of a: Σ M∘G∘G       Σ G∘D
BatchNorm      from Σ_hw δ·x̂ and Σ_hw δ (eval mode)                    the same two sums
=============  ======================================================  ========================

(Goodfellow 2015, arXiv:1510.01799, for linear layers without a mask; Rochette et al. 2019 for convolutions.)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from lib.metrics.estimate import Estimate

WHICH = ("all", "weights")
PATCH_BYTES = 4 << 20  # patches of a convolution's inputs in memory at a time: they should stay in the cache
Named = dict[str, torch.Tensor]


class MeasureError(ValueError):
    """A network, mask or set of examples that cannot be measured; the message names what is wrong and what to do."""
