"""Attack correctly classified test images; keep the 8-bit images and judge those; stop where an attack is unsound."""

from pathlib import Path

import numpy as np

from mistakes import attacks, given, models
from mistakes.artifacts import load_arrays, save_arrays
from mistakes.errors import InputError
from mistakes.sections import Attack
from mistakes.stage import Run, stage


@stage
def main(run: Run, test: Path, classifier: Path, out: Path) -> dict[str, float]:
    """Write out/sets/ATTACK/{images,success,linf,l2,origin}.npy; origin is the position of the clean image in test."""
    if given.outputs_in(test):
        return given.decline("adversarial", out / "sets")
    section, sanity, device = run.params.adversarial, run.params.adversarial.sanity, run.device
    size, seed = section.batch_size, section.seed
    images, labels = load_arrays(test, "images", "labels")
    model = models.load(classifier).to(device)
    if not models.differentiable(model, images, device):
        return given.decline("adversarial", out / "sets", reason=models.NO_GRADIENT)
    drawn = attacks.initially_correct(model, images, labels, section.images, seed, device, size)
    if not len(drawn):
        raise InputError(classifier, "correctly classified test images", 0, "at least one, to be attacked")

    def made_by(attack: Attack) -> tuple[np.ndarray, attacks.Attacked]:
        origin = np.sort(drawn[: attack.images or section.images])
        x, y = images[origin], labels[origin]
        return origin, attacks.run(model, x, y, attack.attack, attack.norm, attack.arguments, seed, device, size)

    x, y = images[drawn], labels[drawn]
    zero = attacks.check_gradients(model, x, y, sanity.zero_gradients, device, size)
    all_won = attacks.check_unbounded("adversarial.sanity.unbounded", made_by(sanity.unbounded)[1], sanity.success)
    metrics: dict[str, float] = {"sanity.zero_gradients": zero, "sanity.unbounded": all_won}
    trials = {}
    for name, attack in section.attacks.items():
        origin, made = made_by(attack)
        won, eps = made.success, attack.arguments.get("eps")
        trials[name] = attacks.Trial(attack.attack, attack.norm, eps, made.gradients == 0, origin, won)
        save_arrays(out / "sets" / name, images=made.images, success=won, linf=made.linf, l2=made.l2, origin=origin)
        metrics |= {
            f"{name}.attempted": len(origin),
            f"{name}.succeeded": int(won.sum()),
            f"{name}.linf": float(made.linf[won].mean()) if won.any() else 0.0,  # mean over the successful
            f"{name}.l2": float(made.l2[won].mean()) if won.any() else 0.0,
            f"{name}.gradients": made.gradients,  # backward passes through the model; 0: a black-box attack
        }
        print(f"adversarial: {name} succeeded on {won.sum()} of {len(origin)}", flush=True)
    growth = attacks.check_growth(trials, sanity.significance)
    white_box = attacks.check_black_box(trials, sanity.significance)
    metrics |= {f"sanity.growth.{pair}": value for pair, value in growth.items()}
    return metrics | {f"sanity.white_box_lead.{pair}": value for pair, value in white_box.items()}


if __name__ == "__main__":
    main()
