"""The one way to refuse bad input."""


class InputError(Exception):
    """Bad input, told in one line: where it stands, which key, which value, and what was expected instead."""

    def __init__(self, where: object, key: str, value: object, expected: str) -> None:
        shown = value if isinstance(value, str) and " " in value else repr(value)
        super().__init__(f"{where}: {key} is {shown}, expected {expected}")
