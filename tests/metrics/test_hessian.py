"""The Hessian's estimators against the whole matrix, against the Fisher matrix, against public
tools, and against bad input.
"""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian

from lib.metrics import curvature, fisher
from lib.metrics import hessian as hess
from lib.metrics.estimate import MeasureError
from lib.models import networks
from lib.rng import generator
from studies.price import identities


class Tied(nn.Module):
    """One linear layer used twice."""

    def __init__(self):
        super().__init__()
        self.layer = self.again = nn.Linear(4, 4)

    def forward(self, x):
        return self.again(torch.relu(self.layer(x)))


def filled(network, seed=0):
    """The network in float64 and eval mode, with numbers from a named generator (also in
    BatchNorm's statistics).
    """
    network = network.to_empty(device="cpu").double().eval()
    draw = generator(seed, "numbers")
    for name, value in network.state_dict().items():
        if name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.5, generator=draw)
        elif value.is_floating_point():
            value.copy_(
                torch.randn(value.shape, generator=draw, dtype=value.dtype)
                / max(1, value[0].numel()) ** 0.5
            )
        else:
            value.zero_()
    return network


def lenet_like():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip


def residual():
    return nn.Sequential(
        networks.Block(2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
    )


def bottleneck():
    return nn.Sequential(
        networks.Block(2, 2, 2, deep=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


NETWORKS = {
    "mlp": lambda: (filled(networks.MLP((5,), 3, widths=(6, 4))), (5,)),
    "tanh": lambda: (filled(networks.MLP((5,), 3, widths=(6, 4), activation="tanh")), (5,)),
    "lenet": lambda: (filled(lenet_like()), (1, 8, 8)),
    "residual": lambda: (filled(residual()), (2, 6, 6)),
    "bottleneck": lambda: (filled(bottleneck()), (2, 6, 6)),
    "batchnorm": lambda: (
        filled(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))),
        (5,),
    ),
}


def case(kind, masked=False, n=12):
    """(network, x, labels, mask or None) with the pruned weights at zero."""
    network, shape = NETWORKS[kind]()
    draw = generator(1, "examples")
    x = torch.randn((n, *shape), generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 3, (n,), generator=draw)
    mask = None
    if masked:
        weights = {name: p for name, p in network.named_parameters() if p.dim() > 1}
        mask = {name: torch.rand(p.shape, generator=draw) < 0.5 for name, p in weights.items()}
        with torch.no_grad():
            for name, live in mask.items():
                weights[name].mul_(live)
    return network, x, labels, mask


def reference(network, x, labels, mask=None, which="all"):
    """The whole masked Hessian by ``torch.func.hessian``, with none of the code under test."""
    weights = {
        name: p.detach() for name, p in network.named_parameters() if which == "all" or p.dim() > 1
    }
    blocks = hessian(lambda w: F.cross_entropy(functional_call(network, w, (x,)), labels))(weights)
    rows = [
        torch.cat([blocks[a][b].reshape(weights[a].numel(), -1) for b in weights], 1)
        for a in weights
    ]
    live = torch.cat(
        [
            (mask or {}).get(name, torch.ones_like(w, dtype=torch.bool)).flatten()
            for name, w in weights.items()
        ]
    )
    return torch.cat(rows)[live][:, live].detach()


CASES = [(kind, masked) for kind in NETWORKS for masked in (False, True)]


# -- exact values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "masked"), CASES)
def test_the_whole_matrix_and_its_products(kind, masked):
    """Dense, product, chunked product and Fisher, with and without kept graphs."""
    network, x, labels, mask = case(kind, masked)
    truth = reference(network, x, labels, mask)
    scale = truth.abs().max()
    assert (hess.exact(network, x, labels, mask=mask, chunk=5) - truth).abs().max() < 1e-12 * scale
    matrix = hess.Curvature(network, x, labels, mask=mask, chunk=7)
    v = torch.randn(matrix.size, generator=generator(2, "v"), dtype=torch.float64)
    for _ in range(2):
        assert (matrix @ v - truth @ v).abs().max() < 1e-12 * scale * v.norm()
    by_name = hess.hvp(network, x, labels, matrix.named(v), mask=mask)
    assert (matrix.flat(by_name) - truth @ v).abs().max() < 1e-12 * scale * v.norm()
    assert all(
        (by_name[name][~live] == 0).all() for name, live in (mask or {}).items() if name in by_name
    )


def test_weights_alone():
    network, x, labels, mask = case("residual", masked=True)
    names = [name for name, p in network.named_parameters() if p.dim() > 1]
    truth = reference(network, x, labels, mask, "weights")
    assert list(hess.Curvature(network, x, labels, mask=mask, which="weights").parameters) == names
    assert (hess.exact(network, x, labels, mask=mask, which="weights") - truth).abs().max() < 1e-12


def test_graphs_that_do_not_fit_are_built_anew(monkeypatch):
    network, x, labels, mask = case("lenet", masked=True)
    truth = reference(network, x, labels, mask)
    monkeypatch.setattr(curvature, "GRAPH_BYTES", 1)
    matrix = hess.Curvature(network, x, labels, mask=mask)
    assert matrix.chunk == 1
    v = matrix.signs(generator(0, "v"))
    for _ in range(2):
        assert (matrix @ v - truth @ v).abs().max() < 1e-12
    assert "_graphs" not in vars(matrix)


def test_the_network_is_left_as_it_was():
    network, x, labels, _ = case("lenet")
    for p in network.parameters():
        p.requires_grad_(False)
    hess.hutchinson(network, x, labels, generator=generator(0, "p"), probes=2)
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


# -- the trace, and the identity -------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "masked"), [c for c in CASES if c[0] != "tanh"])
def test_trace_is_the_fisher_trace(kind, masked):
    """Tr(H) = Tr(F) to 1e-10, for any labels, with and without a mask."""
    network, x, labels, mask = case(kind, masked)
    assert hess.identity_holds(network) == (True, "")
    for given in (labels, (labels + 1) % 3):
        truth = reference(network, x, given, mask).trace().item()
        ours = hess.trace(network, x, given, mask=mask)
        assert ours.value == pytest.approx(truth, rel=1e-10)
        assert ours.samples == len(x)
    assert hess.exact(network, x, labels, mask=mask, of="fisher").trace().item() == pytest.approx(
        truth, rel=1e-10
    )


def test_the_identity_fails_for_tanh():
    network, x, labels, _ = case("tanh")
    holds, reason = hess.identity_holds(network)
    assert not holds
    assert "Tanh" in reason
    truth = reference(network, x, labels).trace().item()
    assert abs(fisher.exact(network, x).mean().item() / truth - 1) > 0.01
    with pytest.raises(MeasureError, match=r"generator.*Tanh"):
        hess.trace(network, x, labels)
    estimate = hess.trace(network, x, labels, generator=generator(0, "probes"), probes=400)
    assert abs(estimate.value - truth) < 4 * estimate.error


def test_the_identity_fails_for_batchnorm_in_train_mode():
    network, x, labels, _ = case("batchnorm")
    for module in network.modules():  # statistics of the batch, but no update of the running ones
        if isinstance(module, nn.BatchNorm1d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    network.train()
    weights = {name: p.detach() for name, p in network.named_parameters()}

    def log_p(w):
        return F.log_softmax(functional_call(network, w, (x,)), -1)

    jacobian = torch.func.jacrev(log_p)(weights)
    p = log_p(weights).exp()
    trace_f = sum(
        (p * j.flatten(2).square().sum(-1)).sum(1).mean().item() for j in jacobian.values()
    )
    trace_h = reference(network, x, labels).trace().item()
    assert abs(trace_f / trace_h - 1) > 0.01
    assert "train mode" in hess.identity_holds(network)[1]


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3)), "GELU"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), "LayerNorm"),
        (lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2), "share"),
        (lambda: nn.Sequential(Tied()), "Tied"),
        (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)).train(), "train mode"),
        (
            lambda: nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)).eval(),
            "running statistics",
        ),
        (lambda: type("Own", (nn.Sequential,), {})(nn.Linear(4, 3)), "Own"),
    ],
)
def test_where_the_identity_is_not_known_to_hold(network, reason):
    network = network()
    holds, said = hess.identity_holds(network if "train" in reason else network.eval())
    assert not holds
    assert reason in said


# -- estimators within their errors ----------------------------------------------------------------


def test_hutchinson_within_its_error():
    """Over 60 repeated draws: no bias, and the reported error is the spread (two per cent of chance
    to see worse).
    """
    network, x, labels, mask = case("lenet", masked=True)
    truth = reference(network, x, labels, mask).trace().item()
    z = []
    for draw in range(60):
        estimate = hess.hutchinson(
            network, x, labels, generator=generator(draw, "probes"), probes=20, mask=mask
        )
        z.append((estimate.value - truth) / estimate.error)
    assert abs(np.mean(z)) < 3 / 60**0.5
    assert 0.7 < np.std(z, ddof=1) < 1.4


def test_hutchinson_is_reproducible_and_independent_of_the_chunk():
    network, x, labels, mask = case("mlp", masked=True)
    values = [
        hess.hutchinson(
            network, x, labels, generator=generator(0, "p"), mask=mask, chunk=c, probes=4
        ).value
        for c in (None, 5)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert (
        hess.hutchinson(network, x, labels, generator=generator(0, "p"), mask=mask, probes=1).error
        == np.inf
    )


# -- the spectrum ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "masked"),
    [("mlp", False), ("mlp", True), ("lenet", True), ("residual", True), ("tanh", True)],
)
def test_lanczos_to_the_end_is_eigh(kind, masked):
    """With as many steps as live weights: every Ritz value is an eigenvalue, with the probe's share
    in it as its weight.
    """
    network, x, labels, mask = case(kind, masked, n=40)
    truth = reference(network, x, labels, mask)
    values, vectors = np.linalg.eigh(truth.numpy())
    probe = hess.Curvature(network, x, labels, mask=mask).signs(generator(0, "probe")).numpy()
    shares = (vectors.T @ probe) ** 2 / len(probe)
    found = hess.spectrum(
        network, x, labels, generator=generator(0, "probe"), steps=len(probe), mask=mask
    )
    assert found.live == len(probe)
    assert len(found.ritz[0]) <= len(probe)
    scale = np.abs(values).max()
    grid = np.linspace(values[0], values[-1], 50)
    for order in range(6):
        assert found.ritz[0] ** order @ found.weights[0] == pytest.approx(
            values**order @ shares, abs=1e-9 * scale**order
        )
    step = np.abs(found.ritz[0][:, None] - values).min(1)
    assert step.max() < 1e-8 * scale
    below = [
        (shares[values <= t + 1e-7].sum(), found.weights[0][found.ritz[0] <= t + 1e-7].sum())
        for t in grid
    ]
    assert np.allclose(*zip(*below, strict=True), atol=1e-6)
    assert found.largest == pytest.approx(values[-1], rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "masked"),
    [("mlp", False), ("mlp", True), ("lenet", False), ("lenet", True), ("residual", True)],
)
def test_extreme_eigenvalues(kind, masked):
    """Both ends against all eigenvalues, in the live subspace; the smallest is negative here."""
    network, x, labels, mask = case(kind, masked, n=60)
    values = np.linalg.eigvalsh(reference(network, x, labels, mask).numpy())
    assert values[0] < -1e-3 * values[-1]
    smallest, largest = hess.extreme_eigenvalues(
        network, x, labels, generator=generator(0, "start"), tolerance=1e-6, mask=mask
    )
    assert (smallest, largest) == (
        pytest.approx(values[0], rel=1e-5),
        pytest.approx(values[-1], rel=1e-5),
    )
    rough = hess.extreme_eigenvalues(
        network, x, labels, generator=generator(0, "start"), tolerance=0.1, mask=mask
    )
    assert rough == (pytest.approx(values[0], rel=0.1), pytest.approx(values[-1], rel=0.1))
    with pytest.raises(
        MeasureError,
        match="the spectrum are not found within 1e-06 after 4 steps; give more steps",
    ):
        hess.extreme_eigenvalues(
            network, x, labels, generator=generator(0, "start"), tolerance=1e-6, steps=4, mask=mask
        )


def test_a_spectrum_that_ends_at_zero():
    """The Fisher matrix has no negative eigenvalue: its smaller end is zero, to a thousandth of the
    larger one times the tolerance.
    """
    network, x, labels, mask = case("lenet", masked=True, n=3)
    largest = np.linalg.eigvalsh(hess.exact(network, x, labels, mask=mask, of="fisher").numpy())[-1]
    ends = hess.extreme_eigenvalues(
        network, x, labels, generator=generator(0, "start"), mask=mask, of="fisher"
    )
    assert abs(ends[0]) < 1e-2 * 1e-3 * largest
    assert ends[1] == pytest.approx(largest, rel=1e-2)


def test_negative_share_by_hand():
    seen = hess.Spectrum.of([4.0, -1.0, 0.0, -3.0])
    assert (seen.smallest, seen.largest, seen.trace, seen.live) == (-3, 4, 0, 4)
    assert seen.negative_share == pytest.approx(4 / 8)
    assert hess.Spectrum.of([0.0, 0.0]).negative_share == 0
    assert hess.Spectrum.of([1.0, 2.0]).negative_share == 0
    two = hess.Spectrum(
        (np.array([-1.0, 3.0]), np.array([1.0])), (np.array([0.5, 0.5]), np.array([1.0])), 7
    )
    assert two.negative_share == pytest.approx(0.5 / (0.5 + 1.5 + 1))


@pytest.mark.parametrize("masked", [False, True])
def test_negative_share_by_lanczos(masked):
    """From a few probes it is near that of all eigenvalues; from many probes nearer."""
    network, x, labels, mask = case("lenet", masked, n=60)
    truth = hess.Spectrum.of(np.linalg.eigvalsh(reference(network, x, labels, mask).numpy()))
    assert 0.05 < truth.negative_share < 0.5
    arguments = {"steps": 30, "probes": 60, "mask": mask}
    found = hess.spectrum(network, x, labels, generator=generator(0, "probes"), **arguments)
    assert found.negative_share == pytest.approx(truth.negative_share, rel=0.1)
    assert found.smallest == pytest.approx(truth.smallest, rel=1e-2)


def test_the_whole_matrix_of_too_many_weights(monkeypatch):
    network, x, labels, mask = case("lenet", masked=True)
    monkeypatch.setattr(hess, "DENSE_LIMIT", 20)
    with pytest.raises(MeasureError, match="at most 20"):
        hess.exact(network, x, labels, mask=mask)


def test_density_and_quantiles():
    """The density integrates to 1, lies where the eigenvalues are, and its quantiles are theirs."""
    network, x, labels, mask = case("lenet", masked=True, n=60)
    values = np.linalg.eigvalsh(reference(network, x, labels, mask).numpy())
    found = hess.spectrum(
        network, x, labels, generator=generator(0, "probes"), steps=25, probes=40, mask=mask
    )
    width = 0.02 * np.ptp(values)
    grid = np.linspace(values[0] - 6 * width, values[-1] + 6 * width, 2000)
    density = found.density(grid, width)
    truth = np.exp(-(((grid[:, None] - values) / width) ** 2) / 2).mean(1) / (
        width * np.sqrt(2 * np.pi)
    )
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-6)
    assert np.trapezoid(np.abs(density - truth), grid) < 0.1
    traces = [len(values) * (v @ w) for v, w in zip(found.ritz, found.weights, strict=True)]
    assert found.trace == pytest.approx(np.mean(traces))
    assert abs(found.trace - values.sum()) < 4 * np.std(traces, ddof=1) / len(traces) ** 0.5
    for q in (0.25, 0.5, 0.9):  # beyond, single eigenvalues decide
        assert abs(found.quantile(q) - np.quantile(values, q)) < 0.06 * np.ptp(values)
    assert (np.diff(found.quantile(np.linspace(0, 1, 11))) >= 0).all()


def test_a_flat_loss_has_a_spectrum_of_zeros():
    network, x, labels, _ = case("mlp")
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
        network[-1].bias[0] = 2000.0  # saturated: every second derivative is exactly zero
    found = hess.spectrum(network, x, labels, generator=generator(0, "probe"), steps=10)
    assert found.ritz[0].tolist() == [0.0]
    assert (found.smallest, found.largest, found.negative_share) == (0, 0, 0)
    assert hess.extreme_eigenvalues(network, x, labels, generator=generator(0, "probe")) == (0, 0)


# -- public implementations ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "lenet", "tanh"])
def test_against_curvlinops(kind):
    """Products with the Hessian and the Fisher matrix, in float64."""
    curvlinops = pytest.importorskip("curvlinops")
    network, x, labels, _ = case(kind)
    weights, data = list(network.parameters()), [(x, labels)]
    for of, operator in (
        ("hessian", curvlinops.HessianLinearOperator),
        ("fisher", curvlinops.GGNLinearOperator),
    ):
        theirs = operator(network, nn.CrossEntropyLoss(), weights, data)
        ours = hess.Curvature(network, x, labels, of=of)
        v = torch.randn(ours.size, generator=generator(3, "v"), dtype=torch.float64)
        assert torch.allclose(ours @ v, theirs @ v, rtol=1e-9, atol=1e-12)


# -- bad input -------------------------------------------------------------------------------------

BAD = {
    "train mode": (lambda c: {"network": c["network"].train()}, "train mode"),
    "no examples": (lambda c: {"x": c["x"][:0], "labels": c["labels"][:0]}, "no examples"),
    "labels too large": (lambda c: {"labels": c["labels"] + 5}, "3 classes"),
    "labels missing": (lambda c: {"labels": None}, "labels"),
    "labels of another number": (lambda c: {"labels": c["labels"][:-1]}, "labels"),
    "mask of another shape": (
        lambda c: {"mask": {"1.weight": torch.ones(2, 2, dtype=torch.bool)}},
        "1.weight",
    ),
    "unknown which": (lambda c: {"which": "biases"}, "biases"),
    "unknown matrix": (lambda c: {"of": "jacobian"}, "jacobian"),
    "chunk": (lambda c: {"chunk": 0}, "chunk is 0"),
    "nothing lives": (
        lambda c: {
            "mask": {
                n: torch.zeros_like(p, dtype=torch.bool) for n, p in c["network"].named_parameters()
            }
        },
        "live",
    ),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize(
    "function", [hess.spectrum, hess.hutchinson, hess.extreme_eigenvalues, hess.exact]
)
def test_bad_input(what, function):
    network, x, labels, _ = case("mlp")
    change, said = BAD[what]
    arguments = {"network": network, "x": x, "labels": labels}
    arguments |= change(arguments)
    if function is not hess.exact:
        arguments["generator"] = generator(0, "probes")
    with pytest.raises(MeasureError, match=said):
        function(**arguments)


def test_bad_numbers():
    network, x, labels, _ = case("mlp")
    draw = generator(0, "probes")
    with pytest.raises(MeasureError, match="probes is 0"):
        hess.hutchinson(network, x, labels, generator=draw, probes=0)
    with pytest.raises(MeasureError, match="at least 1"):
        hess.spectrum(network, x, labels, generator=draw, steps=0)
    with pytest.raises(MeasureError, match="tolerance is 0; it must be above 0"):
        hess.extreme_eigenvalues(network, x, labels, generator=draw, tolerance=0)
    with pytest.raises(MeasureError, match="width is 0"):
        hess.spectrum(network, x, labels, generator=draw, steps=2).density([0.0], 0)
    with pytest.raises(MeasureError, match=r"q is 1.5"):
        hess.spectrum(network, x, labels, generator=draw, steps=2).quantile(1.5)
    with pytest.raises(MeasureError, match="shape"):
        hess.Curvature(network, x, labels) @ torch.ones(3, dtype=torch.float64)
    with pytest.raises(MeasureError, match="no such parameter"):
        hess.hvp(network, x, labels, {"nowhere": torch.ones(3)})
    with torch.no_grad():
        network[1].weight[0, 0] = float("nan")
    with pytest.raises(MeasureError, match=r"1\.weight"):
        hess.spectrum(network, x, labels, generator=draw)


def test_the_whole_matrix_has_a_limit(monkeypatch):
    network, x, labels, _ = case("mlp")
    monkeypatch.setattr(hess, "DENSE_LIMIT", 20)
    with pytest.raises(MeasureError, match="at most 20"):
        hess.exact(network, x, labels)


# -- identities of the Fisher matrix ---------------------------------------------------------------


@pytest.mark.parametrize(("kind", "masked"), CASES)
def test_identities(kind, masked):
    """All three faces agree, and the expansion needs its half; where the logits are not piecewise
    linear too.
    """
    network, x, _, mask = case(kind, masked)
    found = identities.relative_errors(network, x, generator=generator(0, "directions"), mask=mask)
    assert found["second_derivative"] < 1e-9
    assert found["divergence"] < 1e-9
    assert found["expansion"] < 5e-3
    assert found["expansion_reversed"] < 5e-3
    assert found["expansion_without_half"] == pytest.approx(0.5, abs=5e-3)


def test_the_expansion_converges():
    network, x, _, mask = case("tanh", masked=True)
    errors = [
        identities.relative_errors(
            network, x, generator=generator(0, "directions"), mask=mask, step=step
        )["expansion"]
        for step in (1e-1, 1e-2, 1e-3, 1e-4)
    ]
    assert all(later < 0.2 * sooner for sooner, later in pairwise(errors))


def test_identities_along_a_direction_are_the_fisher_matrix():
    """The quadratic form that the identities compare is that of the matrix of ``exact``."""
    network, x, labels, mask = case("lenet", masked=True)
    whole = hess.exact(network, x, labels, mask=mask, of="fisher")
    each = fisher.exact(network, x, mask=mask)
    assert whole.trace().item() == pytest.approx(each.mean().item(), rel=1e-10)
    assert torch.linalg.eigvalsh(whole).min() > -1e-12
    with pytest.raises(MeasureError, match="directions"):
        identities.relative_errors(network, x, generator=generator(0, "d"), mask=mask, directions=0)


def test_no_expansion_on_a_kink():
    """A hidden unit without live inputs and with a bias of zero: the expansion fails along that
    bias alone.
    """
    network, x, _, _ = case("mlp")
    mask = {"1.weight": torch.ones(6, 5, dtype=torch.bool)}
    mask["1.weight"][:3] = False
    with torch.no_grad():
        network[1].weight[:3] = 0
        network[1].bias[:3] = 0
    all_, weights = (
        identities.relative_errors(
            network, x, generator=generator(0, "directions"), mask=mask, which=which
        )
        for which in ("all", "weights")
    )
    assert all_["expansion"] > 1e-2
    assert all_["second_derivative"] < 1e-9
    assert weights["expansion"] < 1e-4


def test_batch_statistics_are_those_of_train_mode():
    network = filled(
        nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
        )
    )
    x = torch.randn(6, 2, 4, 4, generator=generator(0, "x"), dtype=torch.float64)
    y = torch.arange(6) % 3
    copied = hess.with_batch_statistics(network)
    training = copy.deepcopy(network).train()  # torch's own train mode
    assert torch.allclose(copied(x), training(x), rtol=1e-12)
    ours = hess.exact(copied, x, y, chunk=6)
    flat = torch.cat([p.detach().flatten() for p in training.parameters()])
    shapes = {name: p.shape for name, p in training.named_parameters()}

    def loss(flat):
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        weights = {
            name: piece.view(shape)
            for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
        }
        statistics = {name: value.clone() for name, value in training.named_buffers()}
        return F.cross_entropy(functional_call(training, (weights, statistics), (x,)), y)

    theirs = torch.autograd.functional.hessian(loss, flat)
    assert torch.allclose(ours, theirs, atol=1e-10)
    assert (
        ours.trace() / hess.exact(network, x, y).trace() - 1
    ).abs() > 0.05  # another matrix than that in eval mode
    assert not copied.training
    assert network[1].running_mean is not None  # the given network is left as it was
    assert not hess.identity_holds(copied)[0]


def test_batch_statistics_need_the_whole_batch_and_a_batchnorm():
    network = filled(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3))
    )
    x, y = torch.randn(6, 2, 4, 4, dtype=torch.float64), torch.arange(6) % 3
    with pytest.raises(MeasureError, match="chunk is 4 for 6 examples"):
        hess.hutchinson(
            hess.with_batch_statistics(network),
            x,
            y,
            generator=generator(0, "probes"),
            probes=2,
            chunk=4,
        )
    with pytest.raises(MeasureError, match="no BatchNorm"):
        hess.with_batch_statistics(nn.Sequential(nn.Linear(4, 3)))
