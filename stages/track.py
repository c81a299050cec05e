"""Complete the MLflow rows. Last stage, no output: DVC runs it whenever anything changed, and never
from a cache.
"""

import os
import sys
from pathlib import Path

from mistakes.pipeline import custom, mlflow_rows, mlflow_store
from mistakes.pipeline.runner import Run, stage
from mistakes.pipeline.snapshot import WorkTree
from mistakes.report import markdown, plots


@stage
def main(run: Run) -> None:
    """Tell MLflow what the journal holds and what the files say; say which own files changed
    meanwhile, and at the end what was found.
    """
    mlflow_store.ship_pending()
    dvc = {
        key: os.environ[key]
        for key in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
        if os.environ.get(key)
    }
    without_row, lacking = mlflow_rows.complete(WorkTree(), dvc, plots.figures)
    for sentence in [
        *without_row,
        *lacking,
        *(change.sentence for change in custom.changed().values()),
    ]:
        print(f"warning: {sentence}", file=sys.stderr, flush=True)
    data = Path("data")
    for name in run.params.classifiers:
        if (data / "detection" / name / "summary.json").is_file():  # not yet, where it runs alone
            for sentence in markdown.closing(data, name, run.params):
                print(sentence)
    print("open data/explore/explore.html (where it fails), data/report/report.html (evidence)")


if __name__ == "__main__":
    main()
