"""Gaussians on features: fitted on float64 (n, d) and labels (n,), scored with autograd, kept as named tensors.

A state describes c Gaussians on the m <= d directions in which the features vary:
``factors`` (c, d, m), or (1, d, m) where all share a covariance, with F F^T the (pseudo-)inverse covariance;
``shifts`` (c, m), the means times F; ``log_weights`` (c,), nats, everything in log pi N(z) but the distance.

Directions without variance (units that never fire) are dropped, not jittered: a covariance plus a small multiple of the
identity would let that multiple decide the score of every input that makes such a unit fire. Directions count whose
variance is more than VARIES times the largest.
"""

import math

import torch
from torch import Tensor

from mistakes.errors import InputError

VARIES = 1e-10  # in variance; float32 features resolve about 1e-14
RIDGE = 1e-6  # of the total variance of each direction, added to the covariance of each component of a fitted mixture

State = dict[str, Tensor]


def shared(z: Tensor, labels: Tensor) -> State:
    """Return one Gaussian for each class, with the covariance within classes (Lee et al. 2018)."""
    means, centred, _ = _by_class(z, labels)
    whitening = _whitening(centred)
    return {"factors": whitening[None], "shifts": means @ whitening}


def relative(z: Tensor, labels: Tensor) -> State:
    """Return those of ``shared``, and as background_factors, background_shifts one Gaussian for all (Ren et al. 2021).

    The background has the directions of the covariance within classes.
    """
    classes = shared(z, labels)
    y = z @ classes["factors"][0]
    background = _state(
        classes["factors"][0], y.mean(0)[None], _covariance(y - y.mean(0))[None], torch.ones(1, dtype=z.dtype)
    )
    return classes | {f"background_{key}": background[key] for key in ("factors", "shifts")}


def of_classes(z: Tensor, labels: Tensor) -> State:
    """Return a Gaussian with mean, covariance and prior of its own for each class (Mukhoti et al. 2023).

    With units that never fire for a class its sample covariance is singular. It is shrunk, in the coordinates where
    the covariance within classes is the identity, towards a multiple of that by the amount that Ledoit and Wolf (2004)
    derive from the class's own features; there is nothing to choose, and with many samples nothing is left of it.
    """
    from sklearn.covariance import ledoit_wolf

    means, centred, index = _by_class(z, labels)
    whitening = _whitening(centred)
    y = (centred @ whitening).numpy()
    parts = [ledoit_wolf(y[(index == j).numpy()], assume_centered=True)[0] for j in range(len(means))]
    covariances = torch.stack([torch.as_tensor(part) for part in parts])
    return _state(whitening, means @ whitening, covariances, index.bincount().double() / len(z))


def mixture(z: Tensor, components: int, principal: int, seed: int) -> State:
    """Return ``components`` Gaussians fitted by EM, without labels, to the first ``principal`` components of z.

    EM runs in whitened coordinates (where RIDGE is relative to each direction) from k-means++ seeds: k-means itself
    adds up in an order that depends on the number of threads. Raises InputError where fewer directions vary.
    """
    from sklearn.mixture import GaussianMixture

    whitening = _whitening(z - z.mean(0))
    if principal > whitening.shape[1]:
        expected = f"at most {whitening.shape[1]}, the directions that vary"
        raise InputError("params.yaml", "detectors.gmm_principal", principal, expected)
    if components > len(z):
        raise InputError("params.yaml", "detectors.gmm_components", components, f"at most {len(z)}, the images of fit")
    whitening = whitening[:, :principal]
    y, centre = (z - z.mean(0)) @ whitening, z.mean(0) @ whitening
    found = GaussianMixture(components, reg_covar=RIDGE, init_params="k-means++", random_state=seed).fit(y.numpy())
    means, covariances, weights = map(torch.as_tensor, (found.means_, found.covariances_, found.weights_))
    return _state(whitening, means + centre, covariances, weights)


def squared_distances(state: State, z: Tensor, prefix: str = "") -> Tensor:
    """Return the squared Mahalanobis distances (n, c) of features (n, d)."""
    whitened = z @ state[f"{prefix}factors"] - state[f"{prefix}shifts"][:, None]  # (c, n, m)
    return whitened.square().sum(2).T


def nll(state: State, z: Tensor) -> Tensor:
    """Return -log sum_j pi_j N(z; mu_j, Sigma_j) (n,), nats, the density on the directions that are kept."""
    return -torch.logsumexp(state["log_weights"] - squared_distances(state, z) / 2, dim=1)


def _by_class(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return means (c, d), features minus the mean of their class (n, d), and the class's position (n,)."""
    classes, index, counts = labels.unique(return_inverse=True, return_counts=True)
    if counts.min() < 2:
        label = int(classes[counts.argmin()])
        raise InputError("features", f"images of class {label}", int(counts.min()), "at least 2, for a covariance")
    means = torch.zeros(len(classes), z.shape[1], dtype=z.dtype).index_add_(0, index, z) / counts[:, None]
    return means, z - means[index], index


def _covariance(centred: Tensor) -> Tensor:
    return centred.T @ centred / len(centred)  # of maximum likelihood, as in the papers


def _whitening(centred: Tensor) -> Tensor:
    """Return W (d, m), orthogonal columns by falling variance, with W^T Sigma W = I."""
    variances, vectors = torch.linalg.eigh(_covariance(centred))
    vary = variances > VARIES * variances[-1]
    if variances[-1] <= 0 or not vary.any():
        raise InputError("features", "variance", 0.0, "features that vary")
    return (vectors[:, vary] / variances[vary].sqrt()).flip(1)


def _state(whitening: Tensor, means: Tensor, covariances: Tensor, weights: Tensor) -> State:
    """Return the state of Gaussians in whitened coordinates: means (c, m), covariances (c, m, m), weights (c,)."""
    m = whitening.shape[1]
    lower = torch.linalg.cholesky(covariances)
    inverse = torch.linalg.solve_triangular(lower, torch.eye(m, dtype=lower.dtype), upper=False)
    volume = whitening.norm(dim=0).log().sum()  # log-determinant of z -> z W, whose columns are orthogonal
    log_determinants = lower.diagonal(dim1=1, dim2=2).log().sum(1)
    return {
        "factors": whitening @ inverse.mT,
        "shifts": (inverse @ means[:, :, None])[:, :, 0],
        "log_weights": weights.log() - m / 2 * math.log(2 * math.pi) + volume - log_determinants,
    }
