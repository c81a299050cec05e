"""Attack correctly classified test images; keep the 8-bit images and judge those."""

from pathlib import Path

from mistakes import attacks
from mistakes import classifier as classifiers
from mistakes.artifacts import load_arrays, save_arrays
from mistakes.errors import InputError
from mistakes.stage import Run, stage


@stage
def main(run: Run, test: Path, classifier: Path, out: Path) -> dict[str, float]:
    """Write out/sets/ATTACK/{images,success,linf,l2,origin}.npy; origin is the position of the clean image in test."""
    section, device = run.params.adversarial, run.device
    images, labels = load_arrays(test, "images", "labels")
    model = classifiers.load(classifier).to(device)
    origin = attacks.initially_correct(model, images, labels, section.images, section.seed, device, section.batch_size)
    if not len(origin):
        raise InputError(classifier, "correctly classified test images", 0, "at least one, to be attacked")
    metrics: dict[str, float] = {}
    for name, attack in section.attacks.items():
        made = attacks.run(
            model, images[origin], labels[origin], attack.attack, attack.norm, attack.arguments, section.seed, device,
            section.batch_size,
        )  # fmt: skip
        won = made.success
        save_arrays(out / "sets" / name, images=made.images, success=won, linf=made.linf, l2=made.l2, origin=origin)
        metrics |= {
            f"{name}.attempted": len(origin),
            f"{name}.succeeded": int(won.sum()),
            f"{name}.linf": float(made.linf[won].mean()) if won.any() else 0.0,  # mean over the successful
            f"{name}.l2": float(made.l2[won].mean()) if won.any() else 0.0,
        }
        print(f"adversarial: {name} succeeded on {won.sum()} of {len(origin)}", flush=True)
    return metrics


if __name__ == "__main__":
    main()
