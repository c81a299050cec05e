"""Attack correctly classified test images; keep the 8-bit images and judge those; stop where an
attack is unsound.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mistakes.artifacts import load_arrays, save_arrays
from mistakes.attacks import adversarial, adversaries, saturation
from mistakes.config.sections import Attack
from mistakes.data import precomputed
from mistakes.errors import InputError
from mistakes.networks import models
from mistakes.pipeline.runner import Run, stage


@stage
def main(run: Run, test: Path, classifier: Path, out: Path) -> dict[str, float]:
    """Write out/sets/ATTACK/{images,success,linf,l2,origin}.npy; origin is the position of the
    clean image in test.
    """
    if precomputed.outputs_in(test):
        return precomputed.decline("adversarial", out / "sets")
    run.check_attacks()
    section, sanity, device = run.params.adversarial, run.params.adversarial.sanity, run.device
    size, seed = section.batch_size, section.seed
    images, labels = load_arrays(test, "images", "labels")
    model = models.load(classifier).to(device)
    if not models.differentiable(model, images, device):
        return precomputed.decline("adversarial", out / "sets", reason=models.NO_GRADIENT)
    drawn = adversarial.initially_correct(model, images, labels, section.images, seed, device, size)
    if not len(drawn):
        problem = f"none of {len(labels)} test images is classified correctly, so none is attacked"
        raise InputError(classifier, problem)
    victim, saturated, flat = saturation.attackable(
        model, images[drawn], labels[drawn], device, size, most=sanity.zero_gradients, warn=run.warn
    )
    if flat.all():
        return precomputed.decline("adversarial", out / "sets", reason=models.FLAT)

    def made_by(attack: Attack) -> tuple[np.ndarray, adversarial.Attacked]:
        origin = np.sort(drawn[: attack.images or section.images])
        x, y = images[origin], labels[origin]
        return origin, adversarial.run(
            victim, x, y, attack.attack, attack.norm, attack.arguments, seed, device, size
        )

    sound = partial(adversarial.sound, sure=bool(saturated.any()), warn=run.warn)
    metrics: dict[str, float] = {"sanity.zero_gradients": float(saturated.mean())}
    origin, made = made_by(sanity.unbounded)
    if (tried := ~np.isin(origin, drawn[flat])).any():
        made = replace(made, success=made.success[tried])
        metrics["sanity.unbounded"] = float(made.success.mean())
        sound(adversarial.check_unbounded, "adversarial.sanity.unbounded", made, sanity.success)
    trials = {}
    for name, attack in section.attacks.items():
        origin, made = made_by(attack)
        won, eps = made.success, adversaries.eps(attack.attack, attack.arguments)
        trials[name] = adversarial.Trial(
            attack.attack, attack.norm, eps, made.gradients == 0, origin, won
        )
        stored = {"images": made.images, "success": won, "linf": made.linf, "l2": made.l2}
        save_arrays(out / "sets" / name, **stored, origin=origin)
        metrics |= {f"{name}.{key}": value for key, value in made.summary().items()}
        print(f"adversarial: {name} succeeded on {won.sum()} of {len(origin)}", flush=True)
    if not any(trial.success.any() for trial in trials.values()):
        run.warn("no attack succeeds on any image, so there is no adversarial image to be detected")
    growth = sound(adversarial.check_growth, trials, sanity.significance)
    white_box = sound(adversarial.check_black_box, trials, sanity.significance)
    metrics |= {f"sanity.growth.{pair}": value for pair, value in growth.items()}
    return metrics | {f"sanity.white_box_lead.{pair}": value for pair, value in white_box.items()}


if __name__ == "__main__":
    main()
