"""Extract features, early features and logits of every split, each by itself, streamed to disk, or
take given ones.
"""

from pathlib import Path

from mistakes.artifacts import load_arrays, save_arrays, save_batches
from mistakes.data import features, precomputed
from mistakes.networks import models
from mistakes.networks.extraction import Extractor
from mistakes.pipeline.runner import Run, stage


@stage
def main(
    run: Run, classifier: Path, fit: Path, val: Path, cal: Path, test: Path, out: Path
) -> None:
    """Write out/SPLIT/{features,early_1,early_2,...,logits,views,labels}.npy for each split; of fit
    no views, which would cost most, since nothing is fitted on them.
    """
    section = run.params.features
    splits = (fit, val, cal, test)
    if precomputed.outputs_in(fit):
        for split in splits:
            (labels,) = load_arrays(split, "labels")
            save_arrays(out / split.name, **features.load(split).arrays(), labels=labels)
        return
    network = models.load(classifier)
    for split in splits:
        views = () if split == fit else section.views
        extractor = Extractor(network, section.layer, section.early, run.device, views)
        images, labels = load_arrays(split, "images", "labels")
        batches = (batch.arrays() for batch in extractor.batches(images, section.batch_size))
        save_batches(out / split.name, len(images), batches)
        save_arrays(out / split.name, labels=labels)


if __name__ == "__main__":
    main()
