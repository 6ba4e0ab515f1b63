"""A response body that can hold JSON bytes somebody else wrote, and sends them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, SkipValidation, WithJsonSchema
from pydantic_core import CoreSchema


class Spliced:
    """Marks a field that is written by `View.to_json` itself, after the others.

    Its value is JSON text (bytes), a view, or a sequence of views. None leaves the member out.
    """


#: JSON text as a worker wrote it: any JSON value for the client, never parsed or re-encoded here.
RawJson = Annotated[bytes | None, SkipValidation, WithJsonSchema({}), Spliced()]


class View(BaseModel):
    """What is sent. Built by the service from facts it trusts, so `model_construct` is fine, too."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    _spliced: ClassVar[tuple[str, ...]] = ()
    _unwritten: ClassVar[set[str] | None] = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls._spliced = tuple(
            name
            for name, field in cls.model_fields.items()
            if any(isinstance(mark, Spliced) for mark in field.metadata)
        )
        cls._unwritten = set(cls._spliced) or None

    def to_json(self) -> bytes:
        """The body, in UTF-8, with spliced members last."""
        text = self.__pydantic_serializer__.to_json(self, exclude=self._unwritten)
        for name in self._spliced:
            value = getattr(self, name)
            if value is not None:
                comma = b"," if len(text) > len(b"{}") else b""
                text = b'%b%b"%b":%b}' % (text[:-1], comma, name.encode(), _text_of(value))
        return text

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema as sent: a spliced member that may be left out is not required."""
        schema = handler(core_schema)
        own = handler.resolve_ref_schema(schema)
        optional = {name for name in cls._spliced if not cls.model_fields[name].is_required()}
        if "required" in own:
            own["required"] = [name for name in own["required"] if name not in optional]
        for name in optional:
            own["properties"][name].pop("default", None)
        return schema


def _text_of(value: bytes | View | Sequence[View]) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, View):
        return value.to_json()
    return b"[%b]" % b",".join([view.to_json() for view in value])
