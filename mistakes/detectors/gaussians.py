"""Gaussians on features: fitted on float64 (n, d) and labels (n,), scored with autograd, kept as
named tensors.

A state describes c Gaussians on the m <= d directions in which the features vary: ``factors`` (c,
d, m), or (1, d, m) where all share a covariance, with F F^T the (pseudo-)inverse covariance;
``shifts`` (c, m), the means times F; ``log_weights`` (c,), nats, everything in log pi N(z) but the
distance.

Directions without variance (units that never fire) are dropped, not jittered: a covariance plus a
small multiple of the identity would let that multiple decide the score of every input that makes
such a unit fire. Directions count whose variance is more than VARIES times the largest; where
features do not vary at all m is 0, and all are equally likely.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mistakes.detectors.detector import VARIES, InapplicableError, State

RESOLVED = 1e-14  # of the mean square of features: less variance is float32's own
FEW = 5  # samples of a class up to which, this not included, it has no covariance of its own
SHOWN = 10  # classes that a sentence names
# of the total variance of each direction, added to the covariance of each component of a fitted
# mixture
RIDGE = 1e-6


def shared(z: Tensor, labels: Tensor) -> State:
    """Return one Gaussian for each class, with the covariance within classes (Lee et al. 2018).

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]]).double()
    >>> sorted(shared(z, torch.tensor([0, 0, 1, 1])))
    ['factors', 'shifts']
    """
    means, centred, _ = _by_class(z, labels)
    whitening = _whitening(centred, z)
    return {"factors": whitening[None], "shifts": means @ whitening}


def relative(z: Tensor, labels: Tensor) -> State:
    """Return those of ``shared``, and as background_factors, background_shifts one Gaussian for all
    (Ren et al. 2021).

    The background has the directions of the covariance within classes.

    Examples
    --------
    >>> z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    >>> sorted(relative(z, torch.arange(50) % 2))
    ['background_factors', 'background_shifts', 'factors', 'shifts']
    """
    classes = shared(z, labels)
    y = z @ classes["factors"][0]
    background = _state(
        classes["factors"][0],
        y.mean(0)[None],
        _covariance(y - y.mean(0))[None],
        z.new_ones(1),
    )
    return classes | {f"background_{key}": background[key] for key in ("factors", "shifts")}


def of_classes(z: Tensor, labels: Tensor, classes: int | None = None) -> State:
    """Return a Gaussian with mean, covariance and prior of its own for each class (Mukhoti et al.
    2023).

    With units that never fire for a class its sample covariance is singular. It is shrunk, in the
    coordinates where the covariance within classes is the identity, towards a multiple of that by
    the amount that Ledoit and Wolf (2004) derive from the class's own features; there is nothing to
    choose, and with many samples nothing is left of it.

    A class with fewer than FEW samples, or whose samples do not differ, has the covariance within
    classes. Labels are below ``classes`` where that is given, and a class without a label then has
    the mean and covariance of all samples, and the prior of a class with one.

    Examples
    --------
    >>> z = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> of_classes(z, torch.arange(20) % 2)["factors"].shape
    torch.Size([2, 3, 3])
    """
    means, centred, index = _by_class(z, labels, classes)
    whitening = _whitening(centred, z)
    y, counts = centred @ whitening, index.bincount(minlength=len(means))
    everyone = _covariance((z - z.mean(0)) @ whitening)
    covariances = [_shrunk(y[index == j]) if counts[j] else everyone for j in range(len(means))]
    weights = counts.clamp(min=1).double()
    return _state(whitening, means @ whitening, torch.stack(covariances), weights / weights.sum())


def rare(labels: Tensor, names: Sequence[str], which: str) -> list[str]:
    """Return a sentence, or none, on those classes of ``names`` that fewer than FEW of labels (n,)
    are.

    which : ``labelled`` or ``predicted``, what the labels are.

    Examples
    --------
    >>> rare(torch.tensor([0] * 9 + [1]), ["cat", "dog"], "labelled")[0][:44]
    'few images of fit are labelled as dog (1): t'
    """
    counts = labels.bincount(minlength=len(names)).tolist()
    found = [f"{name} ({count})" for name, count in zip(names, counts, strict=False) if count < FEW]
    if not found:
        return []
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return [
        f"few images of fit are {which} as {', '.join(found[:SHOWN])}{more}: the Gaussian of such a"
        " class has the covariance of all classes, that of a class without images is left out, or"
        " in the guard that of all images"
    ]


def mixture(z: Tensor, components: int, principal: int, seed: int) -> State:
    """Return ``components`` Gaussians fitted by EM, without labels, to the first ``principal``
    components of z.

    EM runs in whitened coordinates (where RIDGE is relative to each direction) from k-means++
    seeds: k-means itself adds up in an order that depends on the number of threads. Raises
    InapplicableError where fewer directions vary, or there are fewer samples.

    Examples
    --------
    >>> z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    >>> mixture(z, components=2, principal=3, seed=0)["shifts"].shape
    torch.Size([2, 3])
    """
    from sklearn.mixture import GaussianMixture

    whitening = _whitening(z - z.mean(0), z)
    if principal > whitening.shape[1]:
        varying = f"{whitening.shape[1]} directions of the features vary"
        raise InapplicableError(f"gmm_principal is {principal}, and {varying}")
    if components > len(z):
        raise InapplicableError(f"gmm_components is {components}, and fit has {len(z)} images")
    whitening = whitening[:, :principal]
    y, centre = (z - z.mean(0)) @ whitening, z.mean(0) @ whitening
    mixed = GaussianMixture(components, reg_covar=RIDGE, init_params="k-means++", random_state=seed)
    found = mixed.fit(y.cpu().numpy())
    means, covariances, weights = (
        torch.as_tensor(part, device=z.device)
        for part in (found.means_, found.covariances_, found.weights_)
    )
    return _state(whitening, means + centre, covariances, weights)


def squared_distances(state: State, z: Tensor, prefix: str = "") -> Tensor:
    """Return the squared Mahalanobis distances (n, c) of features (n, d).

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]]).double()
    >>> squared_distances(shared(z, torch.zeros(4).long()), z).flatten().tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    whitened = z @ state[f"{prefix}factors"] - state[f"{prefix}shifts"][:, None]  # (c, n, m)
    return whitened.square().sum(2).T


def nll(state: State, z: Tensor) -> Tensor:
    """Return -log sum_j pi_j N(z; mu_j, Sigma_j) (n,), nats, the density on the directions that are
    kept.

    Examples
    --------
    >>> z = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> state = of_classes(z, torch.arange(20) % 2)
    >>> bool(nll(state, z).mean() < nll(state, z + 9).mean())
    True
    """
    return -torch.logsumexp(state["log_weights"] - squared_distances(state, z) / 2, dim=1)


def _by_class(
    z: Tensor, labels: Tensor, classes: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return means (c, d), features minus the mean of their class (n, d), and the class's position
    (n,).

    A class below ``classes`` that has no label has the mean of all.
    """
    found, index = labels.unique(return_inverse=True)
    number, index = (len(found), index) if classes is None else (classes, labels)
    counts = index.bincount(minlength=number)[:, None]
    sums = z.new_zeros(number, z.shape[1]).index_add_(0, index, z)
    means = torch.where(counts > 0, sums / counts, z.mean(0))
    return means, z - means[index], index


def _shrunk(y: Tensor) -> Tensor:
    """Return the covariance (m, m) of centred samples (n, m) of a class, shrunk as ``of_classes``
    says.
    """
    from sklearn.covariance import ledoit_wolf

    within = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    if len(y) < FEW or not y.shape[1]:
        return within
    found, _ = ledoit_wolf(y.cpu().numpy(), assume_centered=True)
    covariance = torch.as_tensor(found, device=y.device)
    return covariance if torch.linalg.eigvalsh(covariance)[0] > VARIES else within


def _covariance(centred: Tensor) -> Tensor:
    return centred.T @ centred / len(centred)  # of maximum likelihood, as in the papers


def _whitening(centred: Tensor, z: Tensor) -> Tensor:
    """Return W (d, m), orthogonal columns by falling variance, with W^T Sigma W = I; ``centred``
    are z minus means.
    """
    variances, vectors = torch.linalg.eigh(_covariance(centred))
    vary = variances > max(
        VARIES * float(variances[-1]), RESOLVED * float(z.square().sum(1).mean())
    )
    return (vectors[:, vary] / variances[vary].sqrt()).flip(1)


def _state(whitening: Tensor, means: Tensor, covariances: Tensor, weights: Tensor) -> State:
    """Return the state of Gaussians in whitened coordinates: means (c, m), covariances (c, m, m),
    weights (c,).
    """
    m = whitening.shape[1]
    lower = torch.linalg.cholesky(covariances)
    identity = torch.eye(m, dtype=lower.dtype, device=lower.device)
    inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
    # log-determinant of z -> z W, whose columns are orthogonal
    volume = whitening.norm(dim=0).log().sum()
    log_determinants = lower.diagonal(dim1=1, dim2=2).log().sum(1)
    return {
        "factors": whitening @ inverse.mT,
        "shifts": (inverse @ means[:, :, None])[:, :, 0],
        "log_weights": weights.log() - m / 2 * math.log(2 * math.pi) + volume - log_determinants,
    }
