"""Attack each detector by someone who knows it, and see what every score makes of the images."""

from pathlib import Path

import numpy as np
import pandas as pd

from mistakes import progress
from mistakes.artifacts import load_arrays, load_table, save_arrays, save_csv
from mistakes.attacks import adaptive, adversarial, saturation
from mistakes.config.sections import Adaptive
from mistakes.data import features, precomputed
from mistakes.detectors import baselines, conformal, density, scoring
from mistakes.detectors import guard as guards
from mistakes.errors import InputError
from mistakes.networks import models
from mistakes.networks.extraction import Extractor
from mistakes.pipeline.runner import Run, stage


def settings_at(eps: float, section: Adaptive) -> adaptive.Settings:
    """Return how the attack with this ``eps`` is made."""
    return adaptive.Settings(
        eps=eps,
        steps=section.steps,
        lambdas=section.lambdas,
        restarts=section.restarts,
        batch_size=section.batch_size,
        seed=section.seed,
    )


def p_values(
    detectors: scoring.Detectors, batch: features.Batch, calibrated: pd.DataFrame
) -> dict[str, np.ndarray]:
    """Return the conformal p-values (n,) of each score."""
    found = detectors.score(batch).items()
    return {name: conformal.p_values(calibrated[name].to_numpy(), s) for name, s in found}


@stage
def main(
    run: Run,
    test: Path,
    classifier: Path,
    flow: Path,
    baseline: Path,
    guard: Path,
    calibration: Path,
    out: Path,
) -> dict[str, float]:
    """Write out/sets/TARGET/EPS/{images,success,undetected,linf,origin}.npy, and out/adaptive.csv.

    TARGET is the detector that is attacked, or ``none`` for plain PGD, which knows of no detector.
    A row of the table is a set under one score; thresholds come from the images of ``calibration``
    alone.
    """
    declined = ("adaptive", out / "sets", out / "adaptive.csv", adaptive.COLUMNS)
    if precomputed.outputs_in(test):
        return precomputed.decline(*declined)
    section, device, alpha = run.params.adaptive, run.device, run.params.detection.alpha
    level, size, seed = run.params.detection.confidence_level, section.batch_size, section.seed
    images, labels = load_arrays(test, "images", "labels")
    model = models.load(classifier).to(device)
    if not models.differentiable(model, images, device):
        return precomputed.decline(*declined, models.NO_GRADIENT)
    seen = run.params.features.model_dump(exclude={"batch_size"})
    extractor = Extractor(model, device=device, **seen)
    fitted = scoring.Detectors(density.load(flow), baselines.load(baseline), guards.load(guard))
    detectors, targets = fitted.to(device), fitted.applicable(section.detectors, run.warn)
    calibrated = load_table(calibration)
    conformal.check_attainable(alpha, len(calibrated), "detection.alpha")
    drawn = adversarial.initially_correct(model, images, labels, section.images, seed, device, size)
    if not len(origin := np.sort(drawn)):
        raise InputError(classifier, "no test image is classified correctly, so none is attacked")
    x, y = images[origin], labels[origin]
    victim, saturated, _ = saturation.attackable(model, x, y, device, size, most=0.0, warn=run.warn)

    rows = []
    for eps in section.eps:
        settings = settings_at(eps, section)
        plain = {"eps": eps, "eps_iter": 2.5 * eps / section.steps, "nb_iter": section.steps}
        pgd = adversarial.run(victim, x, y, "LinfPGDAttack", "linf", plain, seed, device, size)
        made = {"none": pgd.images}
        for name in progress.bar(targets, f"attacks at eps {eps:g}"):
            score, known = detectors.differentiable(name), calibrated[name].to_numpy()
            target = adaptive.target(extractor, score, bool(saturated.any()))
            made[name] = adaptive.attack(target, known, alpha, x, y, settings, device).images
            progress.say(f"adaptive: attacked {name} at eps {eps:g}")
        outputs = {name: extractor.whole(stored, size) for name, stored in made.items()}
        judged = {
            name: (batch.logits.argmax(1) != y, p_values(detectors, batch, calibrated))
            for name, batch in outputs.items()
        }
        rows += adaptive.rows(eps, judged, alpha, level)
        for name, (success, p) in judged.items():
            save_arrays(
                out / "sets" / name / f"{eps:g}",
                images=made[name],
                success=success,
                undetected=success & (p[name] > alpha) if name in p else success,
                linf=adversarial.linf(made[name], x),
                origin=origin,
            )
    save_csv(out / "adaptive.csv", pd.DataFrame(rows))
    on_guard = [row["rate"] for row in rows if row["target"] == row["score"] == "guard"]
    return {"undetected": max(on_guard)} if on_guard else {}  # at the eps that serves it best


if __name__ == "__main__":
    main()
