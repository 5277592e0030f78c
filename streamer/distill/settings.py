"""Settings of a stage given by name: from a recipe's JSON or from `--set name=value`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from streamer.errors import ConfigError

T = TypeVar("T")


def read_settings(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass from values, checked against its types; what is not named keeps its default.

    where: what holds the values, for the error.  Raises ConfigError for an unknown name, a value
    of another type, or one that the dataclass refuses.
    """
    if not is_dataclass(kind):
        raise TypeError(f"{kind.__name__} is not a dataclass")
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"{where}: {name}: unknown setting of {kind.__name__}{hint}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {name}: {first['msg']}, found {first['input']!r}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs as values: JSON where it is JSON, else text.

    Raises ConfigError for a pair without `=`.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise ConfigError(f"--set {pair}: expected name=value, such as --set clips=8")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values
