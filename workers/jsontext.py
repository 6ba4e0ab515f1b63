"""Values as JSON text, strictly: RFC 8259 knows neither NaN nor Infinity."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from workers.errors import NotJson

_N, _I, _QUOTE = b'NI"'
# Possessive, so that a string of a hundred megabytes is matched without remembering its way back.
_STRING_OR_NON_NUMBER = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|NaN|-?Infinity')


def strict_adapter(annotation: Any) -> TypeAdapter[Any]:
    """Of a list with one value. It writes non-numbers out, not as null: `write_json` refuses them."""
    wanted: Any = Any if annotation is None else annotation
    # Behind a list, a dataclass or typed dictionary takes this config too; a model keeps its own.
    return TypeAdapter(list[wanted], config=ConfigDict(ser_json_inf_nan="constants"))


def write_json(dump: Callable[..., bytes], value: object) -> bytes:
    """A value as JSON text. Raises NotJson.

    dump  the serializer of a `strict_adapter`
    """
    try:
        text = dump([value], warnings=False)[1:-1]
    except (ValueError, TypeError, RecursionError) as error:
        raise NotJson(str(error)) from None
    # Cheap tests first: few texts have a capital N or I, fewer still one of these words.
    if (_N in text or _I in text) and (b"NaN" in text or b"Infinity" in text):
        _refuse_non_numbers(text)
    return text


def _refuse_non_numbers(text: bytes) -> None:
    """Find NaN and Infinity outside the strings of a JSON text. Raises NotJson."""
    for found in _STRING_OR_NON_NUMBER.finditer(text):
        if text[found.start()] != _QUOTE:
            raise NotJson(f"JSON has no {found[0].decode()}")
