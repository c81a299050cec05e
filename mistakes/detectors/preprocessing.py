"""What the flow sees of features: coordinates, standardised, with their log-determinant."""

import torch
from torch import Tensor, nn

from mistakes.errors import ArgumentError, InputError

# a feature vector of zeros has no direction; it gets this norm, and so a very low density
SMALLEST_NORM = 1e-6
RESOLVED = 1e-7  # of a number's size: smaller differences are float32's own
# of the largest variance of coordinates: a direction with less depends on the others
SINGULAR = 1e-8


class Preprocessing(nn.Module):
    """T: features z (n, d) to standardised coordinates (n, m), with its log-determinant.

    raw : z, without columns that never vary. m <= d.
    pca : the first m principal components of z. log_pca : those of sign(z) log(1 + |z|).
    direction_norm : the first m - 1 principal components of the direction u = z / |z|, and log |z|.
    """

    mean: Tensor
    basis: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, transform: str, features: int, coordinates: int) -> None:
        """Make an unfitted map; ``fit`` or ``load_state_dict`` fills it."""
        super().__init__()
        self.transform = transform
        columns = coordinates - (transform == "direction_norm")
        self.register_buffer("mean", torch.zeros(features))  # (d,)
        self.register_buffer("basis", torch.zeros(features, columns))  # orthonormal columns
        self.register_buffer("shift", torch.zeros(coordinates))  # (m,)
        self.register_buffer("scale", torch.ones(coordinates))  # (m,)

    @classmethod
    def fit(cls, z: Tensor, transform: str, components: int) -> "Preprocessing":
        """Fit on features (n, d); ``components`` counts principal components and is ignored by
        ``raw``.

        Raises ArgumentError where there are fewer directions with variance than ``components``, or
        none.
        """
        norm, u = _norm_and_direction(z)
        _refuse_constant(z, transform, norm, u)
        source = (u if transform == "direction_norm" else _spread(z, transform)).double()
        mean = source.mean(0)
        if transform == "raw":
            basis = torch.eye(z.shape[1], dtype=torch.double)[:, _varies(source)]
        else:
            eigenvalues, vectors = torch.linalg.eigh(torch.atleast_2d(torch.cov(source.T)))
            resolved = RESOLVED**2 * float(source.square().sum(1).mean())
            varying = int((eigenvalues > max(1e-10 * float(eigenvalues[-1]), resolved)).sum())
            if components > varying:
                raise ArgumentError("components", components, f"at most {varying}, which vary")
            basis = _fix_signs(vectors.flip(1)[:, :components])
        fitted = cls(transform, z.shape[1], basis.shape[1] + (transform == "direction_norm"))
        fitted.mean, fitted.basis = mean.float(), basis.float()
        y = fitted._coordinates(z).double()
        fitted.shift, fitted.scale = y.mean(0).float(), y.std(0).float()
        return fitted

    def _coordinates(self, z: Tensor) -> Tensor:
        if self.transform != "direction_norm":
            return (_spread(z, self.transform) - self.mean) @ self.basis
        norm, u = _norm_and_direction(z)
        return torch.cat([(u - self.mean) @ self.basis, norm.log()], dim=1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return coordinates (n, m) and the log-determinant (n,), nats."""
        y = (self._coordinates(z) - self.shift) / self.scale
        return y, -self.scale.log().sum().expand(len(z))


def _spread(z: Tensor, transform: str) -> Tensor:
    return z.sign() * z.abs().log1p() if transform == "log_pca" else z


def _varies(x: Tensor) -> Tensor:
    """Tell which columns of x (n, m) vary by more than their numbers resolve."""
    return x.std(0) > RESOLVED * x.abs().amax(0)


def _refuse_constant(z: Tensor, transform: str, norm: Tensor, u: Tensor) -> None:
    if not torch.isfinite(norm).all():
        raise InputError(
            "features", "the square of the length of a row of fit is more than float32 holds"
        )
    if not _varies(z.double()).any():
        raise ArgumentError(
            "transform", problem=f"{transform} has nothing to fit: the features do not vary"
        )
    one = "length (or lengths below 1e-6)" if _varies(u.double()).any() else "direction"
    if transform == "direction_norm" and (one == "direction" or norm.double().log().std() < 1e-6):
        raise ArgumentError(
            "transform", transform, f"pca or raw, since all features have one {one}"
        )


def refuse_singular(y: Tensor, transform: str, components: int) -> None:
    """Raise ArgumentError where coordinates y (n, m) are functions of each other: these have
    no density.
    """
    variances = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(y.double().T)))
    independent, m = int((variances > SINGULAR * variances[-1]).sum()), y.shape[1]
    if independent < m and transform == "raw":
        why = (
            f"only {independent} of the {m} columns that vary are linearly independent on {len(y)}"
            " rows"
        )
        raise ArgumentError("transform", transform, f"pca, since {why}")
    if independent < m:
        expected = f"at most {components - (m - independent)} with the {len(y)} rows that there are"
        raise ArgumentError("components", components, expected)


def _norm_and_direction(z: Tensor) -> tuple[Tensor, Tensor]:
    norm = z.norm(dim=1, keepdim=True).clamp(min=SMALLEST_NORM)
    return norm, z / norm


def _fix_signs(vectors: Tensor) -> Tensor:
    """Make the largest entry of each column positive: eigenvectors have no sign of their own."""
    largest = vectors.abs().argmax(0)
    return vectors * vectors[largest, torch.arange(vectors.shape[1])].sign()
