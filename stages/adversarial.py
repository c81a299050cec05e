"""Attack correctly classified test images; keep the 8-bit images and judge those; stop where an
attack is unsound.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mistakes import progress
from mistakes.artifacts import load_arrays, save_arrays, save_csv
from mistakes.attacks import adversarial, adversaries, saturation
from mistakes.config.sections import Attack
from mistakes.data import precomputed
from mistakes.errors import InputError
from mistakes.networks import models
from mistakes.pipeline.runner import Run, stage

ATTACKS = ("attack", "attempted", "succeeded", "linf", "l2", "gradients")
CHECKS = ("check", "of", "value")


def decline(out: Path, reason: str = precomputed.REASON) -> dict[str, float]:
    """Say why nothing is attacked, and write tables without rows."""
    save_csv(out / "checks.csv", pd.DataFrame(columns=list(CHECKS)))
    return precomputed.decline("adversarial", out / "sets", out / "attacks.csv", ATTACKS, reason)


def conclude(
    run: Run, out: Path, attacks: list[dict[str, float | str]], checks: list[tuple[str, str, float]]
) -> dict[str, float]:
    """Write both tables, and return the share of attempts that succeeded."""
    table = pd.DataFrame(attacks, columns=ATTACKS)
    save_csv(out / "attacks.csv", table)
    save_csv(out / "checks.csv", pd.DataFrame(checks, columns=CHECKS))
    if not table["succeeded"].any():
        run.warn("no attack succeeds on any image, so there is no adversarial image to be detected")
    attempted = table["attempted"].sum()
    return {"success_rate": float(table["succeeded"].sum() / attempted)} if attempted else {}


@stage
def main(run: Run, test: Path, classifier: Path, out: Path) -> dict[str, float]:
    """Write out/sets/ATTACK/{images,success,linf,l2,origin}.npy, and out/{attacks,checks}.csv, a
    row per attack and per sanity check; origin is the position of the clean image in test.
    """
    if precomputed.outputs_in(test):
        return decline(out)
    run.check_attacks()
    section, sanity, device = run.params.adversarial, run.params.adversarial.sanity, run.device
    size, seed = section.batch_size, section.seed
    images, labels = load_arrays(test, "images", "labels")
    model = models.load(classifier).to(device)
    if not models.differentiable(model, images, device):
        return decline(out, models.NO_GRADIENT)
    drawn = adversarial.initially_correct(model, images, labels, section.images, seed, device, size)
    if not len(drawn):
        problem = f"none of {len(labels)} test images is classified correctly, so none is attacked"
        raise InputError(classifier, problem)
    victim, saturated, flat = saturation.attackable(
        model, images[drawn], labels[drawn], device, size, most=sanity.zero_gradients, warn=run.warn
    )
    if flat.all():
        return decline(out, models.FLAT)

    def made_by(attack: Attack) -> tuple[np.ndarray, adversarial.Attacked]:
        origin = np.sort(drawn[: attack.images or section.images])
        x, y = images[origin], labels[origin]
        return origin, adversarial.run(
            victim, x, y, attack.attack, attack.norm, attack.arguments, seed, device, size
        )

    checked = partial(adversarial.checked, sure=bool(saturated.any()), warn=run.warn)
    checks = [("zero_gradients", "all", float(saturated.mean()))]
    origin, made = made_by(sanity.unbounded)
    if (tried := ~np.isin(origin, drawn[flat])).any():
        made = replace(made, success=made.success[tried])
        checks.append(("unbounded", sanity.unbounded.attack, float(made.success.mean())))
        checked(adversarial.check_unbounded, "adversarial.sanity.unbounded", made, sanity.success)
    trials: dict[str, adversarial.Trial] = {}
    attacks: list[dict[str, float | str]] = []
    for name, attack in progress.bar(section.attacks.items(), "attacks"):
        origin, made = made_by(attack)
        won, eps = made.success, adversaries.eps(attack.attack, attack.arguments)
        trials[name] = adversarial.Trial(
            attack.attack, attack.norm, eps, made.gradients == 0, origin, won
        )
        stored = {"images": made.images, "success": won, "linf": made.linf, "l2": made.l2}
        save_arrays(out / "sets" / name, **stored, origin=origin)
        attacks.append({"attack": name} | made.summary())
        progress.say(f"adversarial: {name} succeeded on {won.sum()} of {len(origin)}")
    growth = checked(adversarial.check_growth, trials, sanity.significance)
    white_box = checked(adversarial.check_black_box, trials, sanity.significance)
    checks += [("growth", pair, value) for pair, value in growth.items()]
    checks += [("white_box_lead", pair, value) for pair, value in white_box.items()]
    return conclude(run, out, attacks, checks)


if __name__ == "__main__":
    main()
