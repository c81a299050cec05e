"""The old name of mistakes.serving.guard_model: guards that were handed out load it."""

from mistakes.serving.guard_model import *  # noqa: F403
from mistakes.serving.guard_model import _load_pyfunc  # noqa: F401  (MLflow's entry)
