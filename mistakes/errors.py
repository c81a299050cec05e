"""The one way to refuse bad input."""


class InputError(Exception):
    """Bad input, told in one line of English that says where, what is wrong, and what was expected
    instead.

    InputError("data/cats", "4 of 200 files cannot be read: a.gif (not an image)") is a sentence of
    its own. With ``value`` and ``expected``, ``problem`` is the key of a value:
    InputError("params.yaml", "flow.layers", 0, "1 or more") reads "params.yaml: flow.layers is 0,
    expected 1 or more".
    """

    def __init__(
        self, where: object, problem: str, value: object = None, expected: str | None = None
    ) -> None:
        if expected is not None:
            shown = value if isinstance(value, str) and " " in value else repr(value)
            problem = f"{problem} is {shown}, expected {expected}"
        super().__init__(f"{where}: {problem}")
