"""One drawn score table, evaluated."""

from typing import Any

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    import score_tables  # not before jaxtyping's hook, which conftest files precede

    return score_tables.whole()


@pytest.fixture(scope="module")
def evaluation(table: pd.DataFrame) -> Any:
    from score_tables import SCORES, SETTINGS

    from mistakes.evaluation import detection

    return detection.evaluate(table, SCORES, SETTINGS)
