"""What the text of a command-line option holds: a list, pairs, numbers."""

from pdx.errors import ConfigError


def listed(text: str) -> list[str]:
    """A,B,...: each part without the spaces around it."""
    return [part.strip() for part in text.split(",") if part.strip()]


def pairs(option: str, text: str, form: str = "NAME=VALUE") -> dict[str, str]:
    """NAME=VALUE,... by name.

    Raises:
        ConfigError: a part that is not of this form.
    """
    found = {}
    for part in listed(text):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not (name and sign and value):
            raise ConfigError(f"{option} {part}: write {form}, several with commas between.")
        found[name] = value
    return found


def number(option: str, text: str) -> float:
    """One number.

    Raises:
        ConfigError: it is none.
    """
    try:
        return float(text)
    except ValueError as err:
        raise ConfigError(f"{option} {text}: is not a number; write one such as 1e9.") from err


def numbers(option: str, text: str) -> dict[str, float]:
    """NAME=NUMBER,... by name."""
    return {name: number(option, value) for name, value in pairs(option, text).items()}
