"""The printed names of scores and sets."""

TITLES = {
    "nll": "log-density (flow)",
    "joint": "joint density",
    "posterior": "flow's posterior",
    "msp_views": "MSP over views",
    "msp": "MSP",
    "entropy": "entropy",
    "energy": "energy",
    "max_logit": "max logit",
    "gen": "GEN",
    "mahalanobis": "Mahalanobis",
    "relative_mahalanobis": "relative Mahalanobis",
    "class_gaussians": "class Gaussians",
    "gmm": "GMM",
    "knn": "kNN",
    "vim": "ViM",
    "doctor": "DOCTOR",
    "sirc": "SIRC",
    "nnguide": "NNGuide",
    "fdbd": "fDBD",
    "react": "ReAct",
    "ash": "ASH",
    "scale": "SCALE",
    "lid": "LID",
    "test": "misclassified test images",
    "none": "no detector (plain PGD)",
}


def title(name: str) -> str:
    """Return the printed name of a score or a set.

    Examples
    --------
    >>> title("nll"), title("pgd_05")
    ('log-density (flow)', 'pgd 05')
    """
    return TITLES.get(name, name.replace("_", " "))
