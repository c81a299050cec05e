"""Complete the MLflow rows. Last stage, no output: DVC runs it whenever anything changed, and never from a cache."""

import os

from mistakes import rows, tracking
from mistakes.content import WorkTree
from mistakes.stage import Run, stage


@stage
def main(run: Run) -> None:
    """Tell MLflow what the journal holds and what the files say."""
    tracking.ship_pending()
    dvc = {key: os.environ[key] for key in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV") if os.environ.get(key)}
    rows.complete(WorkTree(), dvc)


if __name__ == "__main__":
    main()
