"""The two ways to refuse: a file or setting of a user, and an argument of a library function."""


class InputError(Exception):
    """Bad input, told in one line that says where, what is wrong, and what was expected instead.

    ``problem`` is a sentence of its own, or with ``value`` and ``expected`` the key of a value.

    Examples
    --------
    >>> print(InputError("data/cats", "4 of 200 files cannot be read: a.gif (not an image)"))
    data/cats: 4 of 200 files cannot be read: a.gif (not an image)
    >>> print(InputError("params.yaml", "flow.layers", 0, "1 or more"))
    params.yaml: flow.layers is 0, expected 1 or more
    """

    def __init__(
        self, where: object, problem: str, value: object = None, expected: str | None = None
    ) -> None:
        super().__init__(f"{where}: {_sentence(problem, value, expected)}")


class ArgumentError(ValueError):
    """A value that a function of the library cannot take; it knows no files and no params.yaml.

    The stages and the command line add where the value comes from: ``flow.components`` of
    params.yaml for ``components`` in stage flow.

    Examples
    --------
    >>> print(ArgumentError("components", 300, "at most 128, which vary"))
    components is 300, expected at most 128, which vary
    >>> print(ArgumentError("groups", problem="'(' is not a regular expression"))
    groups: '(' is not a regular expression
    """

    def __init__(
        self,
        argument: str,
        value: object = None,
        expected: str | None = None,
        *,
        problem: str | None = None,
    ) -> None:
        self.argument = argument
        said = f"{argument}: {problem}" if problem else _sentence(argument, value, expected)
        super().__init__(said)


def _sentence(problem: str, value: object, expected: str | None) -> str:
    if expected is None:
        return problem
    shown = value if isinstance(value, str) and " " in value else repr(value)
    return f"{problem} is {shown}, expected {expected}"
