"""Baselines against closed forms on Gaussian data, and against second implementations."""

import dataclasses

import numpy as np
import pytest
import torch
from pytorch_ood.detector import (
    ASH,
    GEN,
    GMM,
    KNN,
    RMD,
    SCALE,
    EnergyBased,
    Entropy,
    Mahalanobis,
    MaxLogit,
    MaxSoftmax,
    NNGuide,
    ReAct,
    ViM,
    fDBD,
)
from scipy import special, stats
from sklearn.covariance import EmpiricalCovariance, ledoit_wolf
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from mistakes.detectors import baselines, feature_based, gaussians
from mistakes.detectors.baselines import Settings
from mistakes.errors import ArgumentError, InputError

SETTINGS = Settings(
    0,
    gen_gamma=0.1,
    gen_largest=None,
    gmm_components=3,
    gmm_principal=4,
    knn_k=7,
    knn_bank=500,
    vim_share=0.5,
)
OF_LAST_LAYER = ("vim", "fdbd", "react", "ash", "scale")
MEANS = np.array([[0.0, 0, 0, 0, 2], [4, 1, 0, 0, 2], [0, 4, 2, 1, 2]])
PRIORS = np.array([0.5, 0.3, 0.2])
W, B = np.random.default_rng(9).normal(size=(3, 5)), np.array([0.5, -1.0, 2.0])


def roots() -> np.ndarray:
    """Three covariance roots (3, 5, 5), one a class."""
    return np.random.default_rng(8).normal(size=(3, 5, 5)) / 5 + np.eye(5)


def draw(
    n: int, rng: np.random.Generator, same: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Gaussian features (n, 5), logits linear in them, and labels; ``same``: one covariance
    for all classes.
    """
    labels = rng.choice(3, n, p=PRIORS)
    root = roots()[[0, 0, 0] if same else [0, 1, 2]]
    z = (MEANS[labels] + np.einsum("nij,nj->ni", root[labels], rng.normal(size=(n, 5)))).astype(
        np.float32
    )
    return z, (z @ W.T + B).astype(np.float32), labels


def with_dead_units(z: np.ndarray) -> np.ndarray:
    """Insert a unit that never fires and one that always gives the same."""
    return np.insert(np.insert(z, 2, 0, axis=1), 4, 7, axis=1)


def two(data: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.as_tensor(data[0]), torch.as_tensor(data[2])


@pytest.fixture
def fitted(rng: np.random.Generator) -> baselines.Baselines:
    return baselines.fit(*draw(900, rng), SETTINGS)


# scores of logits


def test_scores_of_logits_have_their_closed_forms(fitted, rng: np.random.Generator) -> None:
    z = np.zeros((20, 5), np.float32)
    f = rng.normal(scale=4, size=(20, 4)).astype(np.float32)
    found = fitted.score(z, f, ["msp", "entropy", "energy", "max_logit", "gen"])
    p = special.softmax(f.astype(float), axis=1)
    assert found["msp"] == pytest.approx(-p.max(1))
    assert found["entropy"] == pytest.approx(stats.entropy(p, axis=1))
    assert found["energy"] == pytest.approx(-special.logsumexp(f.astype(float), axis=1))
    assert found["max_logit"] == pytest.approx(-f.max(1))
    assert found["gen"] == pytest.approx((p**0.1 * (1 - p) ** 0.1).sum(1))
    largest = baselines.fit(
        *draw(100, rng), dataclasses.replace(SETTINGS, gen_largest=2, gen_gamma=0.5)
    )
    top = np.sort(p, axis=1)[:, -2:]
    assert largest.score(z, f, ["gen"])["gen"] == pytest.approx(
        (top**0.5 * (1 - top) ** 0.5).sum(1)
    )


@pytest.mark.parametrize(
    ("name", "library"), [("msp", MaxSoftmax), ("energy", EnergyBased), ("max_logit", MaxLogit)]
)
def test_scores_of_logits_are_those_of_pytorch_ood(fitted, name: str, library: type) -> None:
    f = 5 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(fitted(torch.zeros(200, 5), f, [name])[name], library.score(f))


def test_gen_and_entropy_agree_with_pytorch_ood_until_it_clips_probabilities(fitted) -> None:
    moderate, confident = (
        torch.tensor([[a, 0.0, -1.0] for a in (x, x + 1)]).double() for x in (2.0, 25.0)
    )
    for name, score in (
        ("gen", lambda f: 3 * GEN.score(f)),
        ("entropy", Entropy.score),
    ):  # theirs is the mean
        ours = [fitted(torch.zeros(2, 5), f, [name])[name] for f in (moderate, confident)]
        assert ours[0].tolist() == pytest.approx(score(moderate).tolist())
        assert ours[1][0] > 1.05 * ours[1][1]  # the less confident is the more anomalous
    assert (
        GEN.score(confident)[0] == GEN.score(confident)[1]
    ).item()  # clipped: a tie, and no gradient


def test_doctor_and_sirc_have_their_papers_formulas_also_where_p_rounds_to_1(
    rng: np.random.Generator,
) -> None:
    (z, f, labels), (new, logits, _) = draw(500, rng), draw(40, rng)
    found = baselines.fit(z, f, labels, SETTINGS).score(new, logits, ["doctor", "sirc"])
    p = special.softmax(logits.astype(float), axis=1)
    squares = (p**2).sum(1)
    assert found["doctor"] == pytest.approx((1 - squares) / squares, rel=1e-6, abs=1e-12)
    length = np.abs(z.astype(float)).sum(1)
    a, b = length.mean() - 3 * length.std(ddof=1), 1 / length.std(ddof=1)
    combined = (1 - p.max(1)) * (1 + np.exp(-b * (np.abs(new.astype(float)).sum(1) - a)))
    assert found["sirc"] == pytest.approx(np.log(combined), abs=1e-6)
    sure = np.array([[60.0, 0.0, 0.0], [61.0, 0.0, 0.0]], np.float32)
    apart = baselines.fit(z, f, labels, SETTINGS).score(new[:1].repeat(2, 0), sure)
    assert apart["doctor"][0] > apart["doctor"][1] > 0
    assert apart["sirc"][0] > apart["sirc"][1]


# detectors that ask the last layer again


@pytest.fixture
def linear_head() -> torch.nn.Linear:
    head = torch.nn.Linear(5, 3)
    head.load_state_dict({"weight": torch.as_tensor(W), "bias": torch.as_tensor(B)})
    return head.requires_grad_(False)


def theirs(name: str, head: torch.nn.Linear, z: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The scores of pytorch-ood, which has the two parts of a network."""
    known, asked = torch.as_tensor(z), torch.as_tensor(new)
    if name in ("ash", "scale"):
        flat = {"backbone": torch.nn.Identity(), "head": lambda maps: head(maps.flatten(1))}
        library = ASH(**flat) if name == "ash" else SCALE(**flat, percentile=0.85)
        return library.predict_feature_maps(asked[:, :, None, None]).numpy()
    if name == "react":
        bound = torch.quantile(known, 0.9).item()
        library = ReAct(torch.nn.Identity(), head, threshold=bound)
        return library.predict_feature_maps(asked).numpy()
    library = fDBD(None, head) if name == "fdbd" else NNGuide(None, head, k=SETTINGS.knn_k)
    return library.fit_features(known, torch.zeros(len(z)).long()).predict_features(asked).numpy()


@pytest.mark.parametrize("name", ["react", "ash", "scale", "fdbd", "nnguide"])
def test_the_last_layer_s_detectors_agree_with_pytorch_ood(
    name: str, linear_head: torch.nn.Linear, rng: np.random.Generator
) -> None:
    (z, _, labels), (new, _, _) = draw(450, rng), draw(60, rng)
    z, new = np.abs(z), np.abs(new)  # as after a ReLU
    (f, logits) = ((x @ W.T + B).astype(np.float32) for x in (z, new))
    found = baselines.fit(z, f, labels, SETTINGS, [name]).score(new, logits)[name]
    assert found == pytest.approx(theirs(name, linear_head, z, new), rel=2e-3, abs=2e-3)


def test_the_last_layer_is_found_and_refused_where_it_is_not_linear(
    rng: np.random.Generator,
) -> None:
    z, f, labels = draw(300, rng)
    data = baselines._data(z, f, labels, torch.device("cpu"))
    weight, bias = data.last_layer
    assert weight.numpy() == pytest.approx(W, abs=1e-5)
    assert bias.numpy() == pytest.approx(B, abs=1e-4)
    bent = baselines.fit(z, f**2, labels, SETTINGS)
    for name in OF_LAST_LAYER:
        assert "not linear in the features" in bent.left_out[name]


def test_rows_of_zeros_have_finite_scores_with_finite_gradients(rng: np.random.Generator) -> None:
    detectors = baselines.fit(*draw(300, rng), SETTINGS)
    z = torch.zeros(2, 5).double().requires_grad_()
    for name, score in detectors(z, torch.zeros(2, 3)).items():
        assert score.isfinite().all(), name
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score.sum(), z, retain_graph=True)
            assert gradient.isfinite().all(), name


# neighbours


def test_trust_score_and_lid_are_those_of_scikit_learn_s_neighbours(
    rng: np.random.Generator,
) -> None:
    (z, f, labels), (new, logits, _) = draw(400, rng), draw(50, rng)
    found = baselines.fit(z, f, labels, SETTINGS).score(new, logits, ["trust_score", "lid"])
    bank, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, new))
    near = NearestNeighbors(n_neighbors=7).fit(bank).kneighbors(asked)[0].astype(float)
    lid = -1 / np.log(near / near[:, -1:]).mean(1)
    assert found["lid"] == pytest.approx(lid, rel=2e-3)
    nearest = np.stack(
        [
            NearestNeighbors(n_neighbors=1).fit(bank[labels == c]).kneighbors(asked)[0][:, 0]
            for c in range(3)
        ],
        axis=1,
    )
    predicted = logits.argmax(1)
    rows = np.arange(50)
    own = nearest[rows, predicted].copy()
    nearest[rows, predicted] = np.inf
    assert found["trust_score"] == pytest.approx(own / nearest.min(1), rel=2e-3)


def test_a_class_that_the_bank_lacks_is_as_far_as_can_be(rng: np.random.Generator) -> None:
    z, f, _ = draw(100, rng)
    fitted = baselines.fit(z, f, np.zeros(100, int), SETTINGS, ["trust_score"])
    sure = np.array([[9.0, 0, 0], [0, 9.0, 0]], np.float32)
    of_class, of_none = fitted.score(z[:1].repeat(2, 0), sure)["trust_score"]
    assert of_class < 1e-3 < 1e3 < of_none


def test_a_detector_s_name_must_do_as_a_column(monkeypatch, rng: np.random.Generator) -> None:
    for name in ("p_knn", "a.b", "KNN"):
        monkeypatch.setitem(baselines.DETECTORS, name, feature_based.KNN)
        with pytest.raises(ArgumentError, match=f"DETECTORS is '{name}', expected small letters"):
            baselines.fit(*draw(50, rng), SETTINGS)
        monkeypatch.delitem(baselines.DETECTORS, name)


# Gaussians


def test_mahalanobis_agrees_with_scikit_learn_closed_form_and_pytorch_ood(
    rng: np.random.Generator,
) -> None:
    data, new = draw(20_000, rng, same=True), draw(2000, rng, same=True)
    found = baselines.fit(*data, SETTINGS).score(new[0], new[1])["mahalanobis"]
    means = np.stack([data[0][data[2] == y].mean(0, dtype=float) for y in range(3)])
    within = EmpiricalCovariance(assume_centered=True).fit(data[0] - means[data[2]])
    assert found == pytest.approx(
        np.min([within.mahalanobis(new[0] - mean) for mean in means], axis=0), rel=1e-5
    )
    precision = np.linalg.inv(roots()[0] @ roots()[0].T)
    difference = new[0][:, None] - MEANS
    exact = np.einsum("nki,ij,nkj->nk", difference, precision, difference).min(1)
    assert found == pytest.approx(exact, rel=0.1, abs=0.05)
    library = Mahalanobis(None).fit_features(*two(data)).predict_features(torch.as_tensor(new[0]))
    assert found == pytest.approx(
        2 * 20_000 * library.numpy(), rel=0.02, abs=0.01
    )  # float32; theirs is half, of an undivided scatter


def test_relative_mahalanobis_agrees_with_the_paper_s_formula_and_pytorch_ood(
    rng: np.random.Generator,
) -> None:
    data, new = draw(20_000, rng, same=True), draw(500, rng, same=True)
    found = baselines.fit(*data, SETTINGS).score(new[0], new[1])["relative_mahalanobis"]

    def relative(
        within: np.ndarray, means: np.ndarray, total: np.ndarray, centre: np.ndarray
    ) -> np.ndarray:
        def squared(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
            return np.einsum("ni,ij,nj->n", new[0] - mean, np.linalg.inv(covariance), new[0] - mean)

        return np.min([squared(mean, within) for mean in means], axis=0) - squared(centre, total)

    z = data[0].astype(float)
    means = np.stack([z[data[2] == y].mean(0) for y in range(3)])
    within = np.cov((z - means[data[2]]).T, bias=True)
    assert found == pytest.approx(
        relative(within, means, np.cov(z.T, bias=True), z.mean(0)), rel=1e-6, abs=1e-6
    )
    within, centre = roots()[0] @ roots()[0].T, PRIORS @ MEANS
    total = within + (PRIORS[:, None] * (MEANS - centre)).T @ (MEANS - centre)
    assert found == pytest.approx(relative(within, MEANS, total, centre), rel=0.1, abs=0.4)
    library = RMD(None).fit_features(*two(data)).predict_features(torch.as_tensor(new[0]))
    assert found == pytest.approx(
        20_000 * library.numpy(), rel=0.02, abs=0.02
    )  # of undivided scatters, float32


def test_class_gaussians_agree_with_scipy_closed_form_and_pytorch_ood(
    rng: np.random.Generator,
) -> None:
    data, new = draw(20_000, rng), draw(500, rng)
    found = baselines.fit(*data, SETTINGS).score(new[0], new[1])["class_gaussians"]

    def mixture(weights: np.ndarray, means: list, covariances: list) -> np.ndarray:
        parts = [
            stats.multivariate_normal(m, c).logpdf(new[0])
            for m, c in zip(means, covariances, strict=True)
        ]
        return -special.logsumexp(np.stack(parts, axis=1), axis=1, b=weights)

    assert found == pytest.approx(
        mixture(PRIORS, list(MEANS), [r @ r.T for r in roots()]), rel=0.05, abs=0.1
    )
    library = GMM(None).fit_features(*two(data)).predict_features(torch.as_tensor(new[0]))
    assert found == pytest.approx(library.numpy(), rel=0.02, abs=0.02)  # theirs is not shrunk
    few = draw(60, rng)
    found = baselines.fit(*few, SETTINGS).score(new[0], new[1])["class_gaussians"]
    parts = [few[0][few[2] == y].astype(float) for y in range(3)]
    within = sum(len(part) * np.cov(part.T, bias=True) for part in parts) / 60
    root = np.linalg.cholesky(within)
    whiten = np.linalg.inv(root).T
    shrunk = [
        root @ ledoit_wolf((part - part.mean(0)) @ whiten, assume_centered=True)[0] @ root.T
        for part in parts
    ]
    weights = np.array([len(part) for part in parts]) / 60
    assert found == pytest.approx(
        mixture(weights, [part.mean(0) for part in parts], shrunk), rel=1e-6
    )


def test_gmm_agrees_with_closed_form_and_scikit_learn_without_labels(
    rng: np.random.Generator,
) -> None:
    data, new = draw(10_000, rng), draw(500, rng)
    settings = dataclasses.replace(SETTINGS, gmm_principal=5)
    found = baselines.fit(*data, settings)
    nll = found.score(new[0], new[1])["gmm"]
    parts = [
        stats.multivariate_normal(m, r @ r.T).logpdf(new[0])
        for m, r in zip(MEANS, roots(), strict=True)
    ]
    exact = -special.logsumexp(np.stack(parts, axis=1), axis=1, b=PRIORS)
    assert nll.mean() == pytest.approx(exact.mean(), abs=0.02)
    second = GaussianMixture(3, means_init=MEANS, tol=1e-6, max_iter=500).fit(data[0].astype(float))
    assert nll == pytest.approx(
        -second.score_samples(new[0]), abs=0.3
    )  # both stop near one optimum
    other = baselines.fit(data[0], data[1], rng.permutation(data[2]), settings).score(
        new[0], new[1]
    )["gmm"]
    assert np.array_equal(other, nll)


def test_gmm_on_principal_components_is_their_density(rng: np.random.Generator) -> None:
    data, new = draw(5000, rng), draw(50, rng)
    found = baselines.fit(*data, dataclasses.replace(SETTINGS, gmm_principal=2, gmm_components=1))
    z = data[0].astype(float)
    basis = np.linalg.eigh(np.cov(z.T))[1][:, -2:]
    exact = stats.multivariate_normal(z.mean(0) @ basis, np.cov((z @ basis).T, bias=True))
    assert found.score(new[0], new[1])["gmm"] == pytest.approx(
        -exact.logpdf(new[0] @ basis), abs=1e-4
    )


# neighbours


def test_knn_agrees_with_scikit_learn_pytorch_ood_and_the_circle(rng: np.random.Generator) -> None:
    (z, f, labels), new = draw(400, rng), draw(50, rng)
    found = baselines.fit(z, f, labels, SETTINGS).score(3 * new[0], new[1])[
        "knn"
    ]  # length does not matter
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, new[0])]
    neighbours = NearestNeighbors(n_neighbors=7).fit(unit[0])
    assert found == pytest.approx(neighbours.kneighbors(unit[1])[0][:, -1], rel=1e-4)
    library = KNN(None, k=7).fit_features(torch.as_tensor(z), torch.as_tensor(labels))
    assert found == pytest.approx(
        library.predict_features(torch.as_tensor(new[0])).numpy(), rel=1e-4
    )
    isotropic = rng.normal(size=(20_000, 2)).astype(np.float32)  # directions: uniform on the circle
    none = torch.empty(0)
    detector = feature_based.KNN().fit(
        baselines.Data(torch.as_tensor(isotropic).double(), none, none),
        dataclasses.replace(SETTINGS, knn_k=200, knn_bank=20_000),
    )
    asked = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).double()
    distances = detector(asked, none)
    assert distances.mean().item() == pytest.approx(2 * np.sin(np.pi * 200 / 20_001 / 2), rel=0.02)
    nowhere = detector(torch.zeros(1, 2).double(), none)
    assert nowhere.item() == pytest.approx(1)  # no direction, but finite


# ViM


def test_vim_agrees_with_the_paper_s_formula_and_pytorch_ood(rng: np.random.Generator) -> None:
    (z, f, labels), new = draw(2000, rng), draw(50, rng)
    found = baselines.fit(z, f, labels, SETTINGS)
    origin = -np.linalg.pinv(W) @ B
    assert found.detectors["vim"].origin.numpy() == pytest.approx(origin, abs=1e-4)
    x = z.astype(float) - origin
    residual = np.linalg.eigh(x.T @ x)[1][:, :3]  # the principal space has int(0.5 * 5) dimensions
    alpha = f.max(1).mean() / np.linalg.norm(x @ residual, axis=1).mean()
    expected = alpha * np.linalg.norm((new[0] - origin) @ residual, axis=1) - special.logsumexp(
        new[1], axis=1
    )
    assert found.score(new[0], new[1])["vim"] == pytest.approx(expected, abs=1e-3)
    library = ViM(None, 2, torch.as_tensor(W), torch.as_tensor(B)).fit_features(
        torch.as_tensor(z), None
    )
    theirs = library.predict_features(torch.as_tensor(new[0])).numpy()
    assert found.score(new[0], new[1])["vim"] == pytest.approx(theirs, abs=1e-2)


def test_vim_s_alpha_has_its_closed_form_on_gaussian_data(rng: np.random.Generator) -> None:
    z = (rng.normal(size=(20_000, 5)) * [9, 8, 0.5, 0.5, 0.5]).astype(np.float32)
    f = np.stack([z[:, 0], -z[:, 0]], axis=1)  # largest: |z_0|, whose mean is 9 sqrt(2 / pi)
    alpha = baselines.fit(z, f, rng.integers(0, 2, 20_000), SETTINGS).detectors["vim"].alpha.item()
    assert alpha == pytest.approx(9 * np.sqrt(2 / np.pi) / (0.5 * stats.chi(3).mean()), rel=0.02)


def test_vim_needs_logits_that_are_linear_in_the_features(rng: np.random.Generator) -> None:
    z, f, labels = draw(500, rng)
    for other in (
        np.tanh(f),
        np.zeros_like(f),
    ):  # not linear; constant, of which there is no misfit
        found = baselines.fit(z, other, labels, SETTINGS)
        reason = "the logits are not linear in the features of this features.layer"
        assert found.left_out == dict.fromkeys(OF_LAST_LAYER, reason)
        assert found.names == tuple(name for name in baselines.NAMES if name not in OF_LAST_LAYER)
    without = baselines.fit(z, f, labels, dataclasses.replace(SETTINGS, vim_share=None))
    assert without.names == tuple(name for name in baselines.NAMES if name != "vim")
    assert tuple(without.score(z[:3], f[:3])) == without.names


# directions without variance


def test_units_that_never_vary_change_nothing_and_do_not_decide(rng: np.random.Generator) -> None:
    (z, f, labels), new = draw(3000, rng), draw(100, rng)
    names = ["mahalanobis", "relative_mahalanobis", "class_gaussians", "gmm"]
    plain = baselines.fit(z, f, labels, SETTINGS).score(new[0], new[1], names)
    dead = baselines.fit(with_dead_units(z), f, labels, SETTINGS)
    for value in (0, 0.01):  # the dead unit fires
        wider = with_dead_units(new[0])
        wider[:, 2] = value
        found = dead.score(wider, new[1])
        for name in names:
            assert found[name] == pytest.approx(plain[name], rel=1e-5, abs=1e-5)
        assert all(np.isfinite(scores).all() for scores in found.values())
    data = torch.as_tensor(with_dead_units(z)), torch.as_tensor(labels)
    fires = torch.as_tensor(wider[:10])
    library = Mahalanobis(None).fit_features(*data).predict_features(fires).numpy() * 2 * len(z)
    assert (
        library > 100 * found["mahalanobis"][:10].min()
    ).any()  # there the 1e-6 on the diagonal decides


def test_a_unit_that_never_fires_for_one_class_is_shrunk_not_jittered(
    rng: np.random.Generator,
) -> None:
    z, f, labels = draw(3000, rng)
    z[labels == 1, 4] = 0  # the covariance of class 1 is singular
    new = z[labels == 1][:50].copy()
    new[:, 4] = 0.1
    settings = dataclasses.replace(SETTINGS, vim_share=None)
    scores = baselines.fit(z, f, labels, settings).score(new, f[:50])["class_gaussians"]
    library = (
        GMM(None)
        .fit_features(torch.as_tensor(z), torch.as_tensor(labels))
        .predict_features(torch.as_tensor(new))
    )
    assert np.isfinite(scores).all()
    assert scores.mean() < library.mean().item()  # 1e-6 makes 0.1 a hundred standard deviations


# the whole


def test_every_score_has_the_gradient_that_finite_differences_show(
    fitted, rng: np.random.Generator
) -> None:
    z, f, _ = draw(4, rng)
    z64, f64 = (torch.as_tensor(x).double().requires_grad_() for x in (z, f))
    for name in baselines.NAMES:
        assert torch.autograd.gradcheck(lambda x, y, n=name: fitted(x, y, [n])[n], (z64, f64)), name
        gradients = torch.autograd.grad(
            fitted(z64, f64, [name])[name].sum(), (z64, f64), allow_unused=True
        )
        assert any(g is not None and g.abs().sum() > 0 for g in gradients), name


def test_tensors_of_either_precision_score_as_arrays_do_in_any_batches(
    fitted, rng: np.random.Generator
) -> None:
    z, f, _ = draw(1203, rng)
    whole = fitted.score(z, f)
    assert tuple(whole) == baselines.NAMES
    for kind in (torch.float32, torch.float64):
        for rows in (slice(0, 200), slice(1000, 1203)):
            some = fitted(torch.as_tensor(z[rows]).to(kind), torch.as_tensor(f[rows]).to(kind))
            for name, scores in some.items():
                assert scores.numpy() == pytest.approx(whole[name][rows], rel=1e-6, abs=1e-9), name
    assert {
        name: len(scores) for name, scores in fitted.score(z[:0], f[:0]).items()
    } == dict.fromkeys(whole, 0)


def test_a_saved_file_scores_the_same_and_a_seed_gives_the_same_bytes(
    fitted, tmp_path, rng
) -> None:
    z, f, labels = draw(300, rng)
    for name in "ab":
        baselines.save(baselines.fit(z, f, labels, SETTINGS), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    baselines.save(fitted, tmp_path / "c")
    loaded = baselines.load(tmp_path / "c")
    assert loaded.names == fitted.names
    for name, scores in fitted.score(z, f).items():
        assert np.array_equal(loaded.score(z, f)[name], scores)
    moved = loaded.to(torch.device("meta"))
    assert {tensor.device.type for tensor in moved.buffers()} == {"meta"}


def test_a_file_of_another_kind_is_refused(tmp_path) -> None:
    from mistakes.artifacts import save_tensors

    save_tensors(tmp_path / "flow", {"mean": torch.zeros(2)}, {"kind": "maf"})
    with pytest.raises(InputError, match="expected baselines that stage detectors wrote"):
        baselines.load(tmp_path / "flow")


# what does not apply


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        ({"knn_k": 200}, "knn", "knn_k is 200, and the bank has 100 images"),
        ({"knn_k": 60, "knn_bank": 50}, "knn", "knn_k is 60, and the bank has 50 images"),
        (
            {"gmm_principal": 6},
            "gmm",
            "gmm_principal is 6, and 5 directions of the features vary",
        ),
        ({"gmm_components": 200}, "gmm", "gmm_components is 200, and fit has 100 images"),
        ({"vim_share": 0.99}, None, ""),  # int(0.99 * 5) leaves one direction
    ],
)
def test_baselines_that_the_features_cannot_meet_are_left_out(
    change: dict, name: str, reason: str, rng, tmp_path
) -> None:
    data = draw(100, rng)
    found, costs = baselines.measure(*data, dataclasses.replace(SETTINGS, **change), *data[:2])
    alike = ("knn", "nnguide", "lid") if name == "knn" else (name,) * bool(name)
    assert found.left_out == dict.fromkeys(alike, reason)
    assert set(found.names) == set(baselines.NAMES) - set(alike)
    assert {key.split(".")[0] for key in costs} == set(found.names)
    baselines.save(found, tmp_path / "b")
    loaded = baselines.load(tmp_path / "b")
    assert (loaded.left_out, loaded.names) == (found.left_out, found.names)
    assert all(np.isfinite(scores).all() for scores in loaded.score(*data[:2]).values())


def test_a_baseline_that_gives_no_numbers_is_left_out(
    monkeypatch, rng: np.random.Generator
) -> None:
    data = draw(100, rng)
    right = feature_based.KNN.forward
    monkeypatch.setattr(feature_based.KNN, "forward", lambda self, z, f: right(self, z, f) / 0)
    found, costs = baselines.measure(*data, SETTINGS, *data[:2])
    assert found.left_out == {"knn": "it gives inf for an image of cal"}
    assert "knn" not in found.names
    assert "knn.megabytes" not in costs


def test_features_that_do_not_vary_leave_the_gaussians_out(rng: np.random.Generator) -> None:
    z, f, labels = draw(100, rng)
    within = "the features do not vary within classes"
    constant = baselines.fit(np.full_like(z, 0.1), f, labels, SETTINGS)
    assert constant.left_out["mahalanobis"] == constant.left_out["class_gaussians"] == within
    assert constant.left_out["gmm"].endswith("and 0 directions of the features vary")
    collapsed = baselines.fit(
        MEANS[labels].astype(np.float32), f, labels, SETTINGS
    )  # one point for each class
    assert collapsed.left_out["relative_mahalanobis"] == within
    assert np.isfinite(collapsed.score(z, f)["knn"]).all()
    z[:, 2:] = 0  # two directions vary, and the principal space takes them
    settings = dataclasses.replace(SETTINGS, gmm_principal=2, vim_share=0.8)
    found = baselines.fit(z, z[:, :2], labels * 0, settings)
    assert found.left_out == {"vim": "vim_share is 0.8, and nothing of the features is left over"}


@pytest.mark.parametrize("columns", [1, 5])
@pytest.mark.parametrize("n", [1, 2, 3, gaussians.FEW - 1])
def test_a_class_with_few_images_has_the_covariance_of_all(
    n: int, columns: int, rng: np.random.Generator
) -> None:
    z, _, labels = draw(300, rng)
    z, labels = z[:, :columns].astype(float), np.where(labels == 2, 1, labels)
    few = rng.permutation(300)[:n]
    labels[few] = 2
    x, y = torch.as_tensor(z), torch.as_tensor(labels)
    state = gaussians.of_classes(x, y)
    centred = z - np.stack([z[labels == k].mean(0) for k in range(3)])[labels]
    exact = stats.multivariate_normal(z[few].mean(0), centred.T @ centred / 300)
    new = torch.as_tensor(rng.normal(size=(20, columns)))
    joint = state["log_weights"] - gaussians.squared_distances(state, new) / 2
    assert joint[:, 2].numpy() == pytest.approx(exact.logpdf(new.numpy()) + np.log(n / 300))
    (said,) = gaussians.rare(y, ["cat", "dog", "cow", "emu"], "labelled")
    assert said.startswith(f"few images of fit are labelled as cow ({n}), emu (0): ")
    assert gaussians.rare(y, ["cat", "dog"], "labelled") == []


def test_a_class_without_images_has_the_gaussian_of_all(rng: np.random.Generator) -> None:
    z, _, labels = draw(2000, rng)
    z, labels = z[labels < 2].astype(float), labels[labels < 2]
    x, y = torch.as_tensor(z), torch.as_tensor(labels)
    state, without = gaussians.of_classes(x, y, 3), gaussians.of_classes(x, y)
    new = torch.as_tensor(rng.normal(size=(20, 5)))
    joint = state["log_weights"] - gaussians.squared_distances(state, new) / 2
    exact = stats.multivariate_normal(z.mean(0), np.cov(z.T, bias=True))
    assert joint[:, 2].numpy() == pytest.approx(exact.logpdf(new.numpy()) - np.log(len(z) + 1))
    others = without["log_weights"] - gaussians.squared_distances(without, new) / 2
    assert joint[:, :2].numpy() == pytest.approx(others.numpy(), abs=1e-3)  # but for the prior


def test_a_class_whose_images_are_all_the_same_has_the_covariance_of_all(
    rng: np.random.Generator,
) -> None:
    z, _, labels = draw(300, rng)
    z[labels == 1] = z[labels == 1][0]
    state = gaussians.of_classes(torch.as_tensor(z).double(), torch.as_tensor(labels))
    assert all(torch.isfinite(part).all() for part in state.values())


def test_measure_fits_the_same_and_gives_the_cost_of_each(rng: np.random.Generator) -> None:
    z, f, labels = draw(300, rng)
    found, costs = baselines.measure(z, f, labels, SETTINGS, z[:10], f[:10])
    expected = baselines.fit(z, f, labels, SETTINGS).score(z, f)
    assert all(np.array_equal(scores, expected[name]) for name, scores in found.score(z, f).items())
    assert set(costs) == {
        f"{n}.{k}" for n in baselines.NAMES for k in ("fit_seconds", "score_seconds", "megabytes")
    }
    assert costs["knn.megabytes"] == pytest.approx((300 * 5 * 4 + 8) / 1e6)


def test_notes_reach_the_journal_and_no_file(tmp_path, monkeypatch) -> None:
    from mistakes.config import params
    from mistakes.pipeline import journal, runner, snapshot

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(snapshot, "key", lambda *_: "key")
    values = params.load()
    run = runner.Run("detectors", next(iter(values.classifiers)), values, journaled=True)
    run.note(**{"cost.knn.fit_seconds": 1.5})
    run.close("FINISHED", {"n_cal": 3})
    (path,) = (tmp_path / ".dvc" / "tmp" / "mistakes" / "journal").glob("*.jsonl")
    end = journal.read(path)[-1]["metrics"]
    assert end.items() >= {"cost.knn.fit_seconds": 1.5, "n_cal": 3}.items()
