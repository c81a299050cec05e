"""The science against closed forms, invariants and other implementations."""

import numpy as np
import pytest
import torch
from scipy import stats

from mistakes.detectors import density
from mistakes.errors import ArgumentError, InputError


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(6, 6))
    return np.maximum(rng.normal(size=(600, 6)) @ mixing + 1, 0).astype(np.float32)


# density


@pytest.mark.parametrize("kind", ["maf", "realnvp", "spline"])
@pytest.mark.parametrize("transform", ["raw", "pca", "log_pca", "direction_norm"])
def test_log_determinant_agrees_with_autograd(
    kind: str, transform: str, features: np.ndarray, cpu: torch.device
) -> None:
    settings = density.Optimisation(2, 2, 100, 1e-3, 5.0, 0)
    fitted = density.fit(
        features, features, kind, transform, 4, 2, 8, settings, cpu, lambda *_, **__: None
    ).density.double()
    z = torch.as_tensor(features[:3]).double()
    coordinates = fitted.preprocessing._coordinates(z)

    def noise(c: torch.Tensor) -> torch.Tensor:
        y = (c - fitted.preprocessing.shift) / fitted.preprocessing.scale
        return fitted.flow.flow.transform_to_noise(y[None])[0]

    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(noise, coordinates[i])
        u = noise(coordinates[i])
        expected = (
            -0.5 * (u**2).sum() - len(u) / 2 * np.log(2 * np.pi) + torch.linalg.slogdet(jacobian)[1]
        )
        assert fitted.log_prob(z[i : i + 1]).item() == pytest.approx(expected.item(), abs=1e-6)


def test_flow_reaches_a_gaussian_s_entropy_and_gaussian_is_exact(
    cpu: torch.device, rng: np.random.Generator
) -> None:
    covariance = np.array([[2.0, 0.8], [0.8, 1.0]])
    z, held_out = (
        rng.multivariate_normal([3, -1], covariance, 4000).astype(np.float32) for _ in range(2)
    )
    settings = density.Optimisation(8, 3, 200, 3e-3, 5.0, 0)
    fitted = density.fit(z, held_out, "maf", "pca", 2, 2, 16, settings, cpu, lambda *_, **__: None)
    exact = stats.multivariate_normal([3, -1], covariance)
    entropy = exact.entropy()
    assert fitted.nll_select_gaussian == pytest.approx(entropy, abs=0.05)
    assert fitted.nll_select == pytest.approx(entropy, abs=0.1)
    found = density.evaluate(fitted.density.gaussian_log_prob, held_out[:50])
    assert found == pytest.approx(exact.logpdf(held_out[:50]), abs=0.15)


def test_direction_norm_density_does_not_change_with_the_scale_of_the_features(
    features: np.ndarray, cpu
) -> None:
    settings = density.Optimisation(2, 2, 100, 1e-3, 5.0, 0)
    one, hundred = (
        density.fit(
            z, z, "maf", "direction_norm", 3, 2, 8, settings, cpu, lambda *_, **__: None
        ).density
        for z in (features, 128 * features)
    )
    a, b = (
        density.evaluate(one.log_prob, features),
        density.evaluate(hundred.log_prob, 128 * features),
    )
    assert a == pytest.approx(b, abs=1e-2)


def test_saved_flow_gives_the_same_density_and_zeros_are_finite(
    features: np.ndarray, cpu, tmp_path
) -> None:
    settings = density.Optimisation(1, 1, 100, 1e-3, 5.0, 0)
    fitted = density.fit(
        features, features, "maf", "direction_norm", 3, 2, 8, settings, cpu, lambda *_, **__: None
    ).density
    density.save(fitted, tmp_path / "flow.safetensors")
    loaded = density.load(tmp_path / "flow.safetensors")
    z = np.vstack([features[:5], np.zeros((1, 6), np.float32), np.full((1, 6), 1e6, np.float32)])
    found = density.evaluate(loaded.log_prob, z)
    for key, tensor in fitted.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    # tensors that lie otherwise in memory may be added up in another order
    assert found == pytest.approx(density.evaluate(fitted.log_prob, z), rel=1e-6)
    assert np.isfinite(found).all()


def test_a_flow_that_diverges_says_so(features: np.ndarray, cpu: torch.device) -> None:
    settings = density.Optimisation(5, 5, 100, 1e6, 1e9, 0)
    with pytest.raises(density.DivergenceError):
        density.fit(features, features, "maf", "pca", 3, 2, 8, settings, cpu, lambda *_, **__: None)


def test_too_many_components_are_refused(features: np.ndarray, cpu: torch.device) -> None:
    settings = density.Optimisation(1, 1, 100, 1e-3, 5.0, 0)
    with pytest.raises(ArgumentError, match="components is 7, expected at most 6"):
        density.fit(features, features, "maf", "pca", 7, 2, 8, settings, cpu, lambda *_, **__: None)


def fit_flow(
    z: np.ndarray, transform: str, components: int = 1, kind: str = "maf"
) -> density.Density:
    settings = density.Optimisation(1, 1, 100, 1e-3, 5.0, 0)
    nothing = torch.device("cpu"), lambda *_, **__: None
    return density.fit(z, z, kind, transform, components, 2, 8, settings, *nothing).density


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("transform", ["raw", "pca"])
def test_one_column_has_a_density(
    transform: str, sign: float, rng: np.random.Generator, tmp_path
) -> None:
    z = (sign * rng.gamma(3, size=(200, 1))).astype(np.float32)
    fitted = fit_flow(z, transform)
    density.save(fitted, tmp_path / "flow.safetensors")
    found = density.evaluate(density.load(tmp_path / "flow.safetensors").log_prob, z)
    assert found == pytest.approx(density.evaluate(fitted.log_prob, z), abs=1e-4)
    gaussian = stats.norm(z.mean(), z.std(ddof=1))
    assert density.evaluate(fitted.gaussian_log_prob, z) == pytest.approx(
        gaussian.logpdf(z[:, 0]), abs=1e-3
    )


def test_raw_drops_columns_that_are_constant_at_any_scale(features: np.ndarray) -> None:
    for constant, scale in ((7.1, 1.0), (0.0, 1e-9), (1e6, 1.0)):
        z = np.column_stack(
            [scale * features, np.full(len(features), constant, np.float32)]
        ).astype(np.float32)
        assert fit_flow(z, "raw").form.coordinates == 6


@pytest.mark.parametrize(
    ("change", "transform", "components", "words"),
    [
        (
            lambda z: np.column_stack([z, z]),
            "raw",
            1,
            "transform is 'raw', expected pca, since only 6 of the 12",
        ),
        (
            lambda z: np.column_stack([z, z @ z[:6]]),
            "raw",
            1,
            "since only 6 of the 12 columns that vary are linearly",
        ),
        (
            lambda z: z[:5],
            "raw",
            1,
            "since only 4 of the 6 columns that vary are linearly independent on 5 rows",
        ),
        (lambda z: z[:5], "pca", 5, "components is 5, expected at most 4, which vary"),
        (
            lambda z: z[:5],
            "direction_norm",
            4,
            "components is 4, expected at most 3 with the 5 rows",
        ),
        (
            lambda z: np.full_like(z, 0.1),
            "raw",
            1,
            "transform: raw has nothing to fit: the features do not vary",
        ),
        (lambda z: np.full_like(z, 0.1), "pca", 1, "transform: pca has nothing to fit"),
        (
            lambda z: np.full_like(z, 0.1),
            "direction_norm",
            1,
            "transform: direction_norm has nothing to fit",
        ),
        (
            lambda z: 1 + z[:, :1],
            "direction_norm",
            1,
            "expected pca or raw, since all features have one direction",
        ),
        (
            lambda z: (z + 1) / np.linalg.norm(z + 1, axis=1, keepdims=True),
            "direction_norm",
            3,
            "have one length",
        ),
        (lambda z: 1e-9 * z, "direction_norm", 3, "have one length .or lengths below 1e-6"),
        (
            lambda z: z[:1],
            "pca",
            1,
            "features: too few rows, 1 to fit the flow to and 1 to stop it by",
        ),
        (lambda z: z[:0], "raw", 1, "features: too few rows, 0 to fit"),
        (lambda z: 1e30 * z, "direction_norm", 3, "more than float32 holds"),
    ],
)
def test_features_without_a_density_are_refused(
    change, transform, components, words, features
) -> None:
    with pytest.raises((ArgumentError, InputError), match=words) as caught:
        fit_flow(change(features).astype(np.float32), transform, components)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["realnvp", "spline"])
def test_one_coordinate_cannot_be_coupled(kind: str, features: np.ndarray) -> None:
    with pytest.raises(ArgumentError, match=f"kind is '{kind}', expected maf"):
        fit_flow(features[:, :1], "raw", 1, kind)


def test_nearly_dependent_columns_are_fitted(
    features: np.ndarray, rng: np.random.Generator
) -> None:
    """Where the covariance is invertible, but not in float32."""
    z = np.column_stack([features, features[:, 0] + 1e-3 * rng.normal(size=len(features))]).astype(
        np.float32
    )
    assert np.isfinite(density.evaluate(fit_flow(z, "raw").gaussian_log_prob, z)).all()


@pytest.mark.parametrize("transform", ["raw", "pca", "log_pca", "direction_norm"])
def test_features_beyond_float32_are_unlikely_and_finite(
    transform: str, features: np.ndarray
) -> None:
    fitted = fit_flow(features, transform, 3)
    z = np.vstack(
        [features[:5], np.full((1, 6), 1e25, np.float32), np.full((1, 6), -3e38, np.float32)]
    )
    for log_prob in (fitted.log_prob, fitted.gaussian_log_prob):
        found = density.evaluate(log_prob, z)
        assert np.isfinite(found).all()
        assert found[5:].max() < found[:5].min()
    assert found.dtype == np.float64 or transform in ("direction_norm", "log_pca")
    assert density.evaluate(fitted.log_prob, z[:0]).shape == (0,)


# conditioned on the predicted class


CLASSES = stats.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]]), stats.multivariate_normal([5, 1])


@pytest.fixture(scope="module", params=["prediction", "base"])
def conditioned(request) -> density.Fitted:
    """A flow fitted to two classes of Gaussians, of which a fourth is of the first."""
    rng = np.random.default_rng(2)
    z, classes = two_classes(6000, rng)
    select, select_classes = two_classes(1000, rng)
    settings = density.Optimisation(12, 4, 200, 3e-3, 5.0, 0)
    given = density.Given(request.param, 2, classes, select_classes)
    rest = ("maf", "pca", 2, 2, 16, settings, torch.device("cpu"), lambda *_, **__: None)
    return density.fit(z, select, *rest, given)


def two_classes(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    classes = (rng.random(n) < 0.75).astype(np.int64)
    each = [one.rvs(n, random_state=rng) for one in CLASSES]
    return np.where(classes[:, None], each[1], each[0]).astype(np.float32), classes


def test_a_conditioned_flow_reaches_the_joint_entropy(conditioned, rng) -> None:
    z, classes = two_classes(2000, rng)
    joint = np.stack([one.logpdf(z) for one in CLASSES], 1) + np.log([0.25, 0.75])
    found = density.evaluate(conditioned.density.log_joint, z)
    assert -found[np.arange(2000), classes].mean() == pytest.approx(
        -joint[np.arange(2000), classes].mean(), abs=0.1
    )
    marginal = density.evaluate(conditioned.density.log_prob, z)
    exact = np.logaddexp.reduce(joint, axis=1)
    assert -marginal.mean() == pytest.approx(-exact.mean(), abs=0.1)
    assert conditioned.nll_select == pytest.approx(-exact.mean(), abs=0.15)


def test_joint_marginal_and_one_pass_are_consistent(conditioned, rng, tmp_path) -> None:
    z, classes = two_classes(500, rng)
    density.save(conditioned.density, tmp_path / "flow.safetensors")
    one = density.load(tmp_path / "flow.safetensors")
    joint = density.evaluate(one.log_joint, z)
    assert density.evaluate(one.log_prob, z) == pytest.approx(
        np.logaddexp.reduce(joint, axis=1), abs=1e-4
    )
    at = density.evaluate(one.log_joint_at, z, classes)
    assert at == pytest.approx(joint[np.arange(500), classes], abs=1e-4)
    assert np.array_equal(at, density.evaluate(conditioned.density.log_joint_at, z, classes))


@pytest.mark.parametrize("condition", ["prediction", "base"])
def test_a_class_that_is_hardly_predicted_has_the_density_of_the_others(
    condition: str, cpu, rng
) -> None:
    z, classes = two_classes(400, rng)
    classes[:2] = 2  # and class 3 is never predicted
    settings = density.Optimisation(2, 2, 100, 3e-3, 5.0, 0)
    given = density.Given(condition, 4, classes, classes)
    fitted = density.fit(z, z, "maf", "pca", 2, 2, 8, settings, cpu, lambda *_, **__: None, given)
    one = fitted.density
    joint = density.evaluate(one.log_joint, z).astype(float)
    others = np.logaddexp(joint[:, 0], joint[:, 1]) - np.log(398 / 401)
    assert joint[:, 2] - np.log(2 / 401) == pytest.approx(others, abs=1e-3)
    assert joint[:, 3] - np.log(1 / 401) == pytest.approx(others, abs=1e-3)
    rare = np.full(len(z), 3)
    assert density.evaluate(one.log_joint_at, z, rare) == pytest.approx(joint[:, 3], abs=1e-4)


def test_other_representations_stay_with_the_density(cpu, rng, tmp_path) -> None:
    z, classes = two_classes(400, rng)
    settings, nothing = density.Optimisation(2, 2, 100, 3e-3, 5.0, 0), lambda *_, **__: None
    given = density.Given("prediction", 2, classes, classes)
    first, *others = (
        density.fit(z, z, "maf", transform, 2, 2, 8, settings, cpu, nothing, given).density
        for transform in ("pca", "log_pca", "raw")
    )
    first.others.extend(others)
    density.save(first, tmp_path / "flow.safetensors")
    loaded = density.load(tmp_path / "flow.safetensors")
    found = density.evaluate(loaded.log_joints_at, z, classes)
    expected = [density.evaluate(one.log_joint_at, z, classes) for one in (first, *others)]
    assert np.array_equal(found, np.stack(expected, axis=1))
    assert len({tuple(column) for column in found.T.round(3)}) == 3
