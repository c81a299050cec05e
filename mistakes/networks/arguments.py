"""Arguments of other libraries' functions that would fetch or unpickle weights; no entry may give
them.
"""

WEIGHTS = frozenset({"pretrained", "weights", "weights_backbone", "checkpoint_path"})
