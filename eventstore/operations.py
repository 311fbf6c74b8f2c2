"""Operations: what a caller wants to happen, checked at the door and made ready to be recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, SkipValidation, ValidationError

from eventstore.checks import check_content, check_count, check_id, check_text, check_vector, metadata_json
from eventstore.errors import InvalidOperation
from eventstore.events import EventType
from eventstore.instants import parse_instant

__all__ = ["Add", "Delete", "Operation", "Update"]


class _Operation(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)

    actor_id: str | None = None
    role: str | None = None
    reason: str | None = None
    occurred_at: Annotated[datetime | str | None, SkipValidation] = None
    event_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidOperation(f"{type(self).__name__}: {where}: {first['msg']}") from None

    def __repr__(self) -> str:
        """The call that makes the operation again: what was not given is left out."""
        fields = sorted(self.model_fields_set - {"type"}, key=lambda name: (name != "memory_id", name))
        return f"{type(self).__name__}({', '.join(f'{name}={_code(getattr(self, name))}' for name in fields)})"

    __str__ = __repr__


def _code(value: Any) -> str:
    """The repr of a value, where that is code: arrays as lists, and the floats that have no literal as calls."""
    if isinstance(value, np.ndarray):
        return _code(value.tolist())
    if isinstance(value, float) and value - value != 0.0:
        return f"float('{value}')"
    if type(value) is list:
        return f"[{', '.join(map(_code, value))}]"
    if type(value) is dict:
        return f"{{{', '.join(f'{_code(key)}: {_code(inner)}' for key, inner in value.items())}}}"
    return repr(value)


class Add(_Operation):
    """Add a memory. Without `memory_id` it gets a new time-ordered one; without `vector` it is embedded."""

    type: Literal["ADD"] = "ADD"
    content: str
    vector: Any = None
    memory_id: str | None = None
    metadata: Annotated[Mapping[str, Any] | None, SkipValidation] = None


class Update(_Operation):
    """Change what is given of a live memory and keep the rest. New content without `vector` is embedded."""

    type: Literal["UPDATE"] = "UPDATE"
    memory_id: str
    content: str | None = None
    vector: Any = None
    metadata: Annotated[Mapping[str, Any] | None, SkipValidation] = None
    expected_version: Annotated[int | None, SkipValidation] = None


class Delete(_Operation):
    """End a live memory. Its history stays."""

    type: Literal["DELETE"] = "DELETE"
    memory_id: str
    expected_version: Annotated[int | None, SkipValidation] = None


Operation = Add | Update | Delete

CONTEXT_FIELDS = ("actor_id", "role", "reason", "occurred_at", "correlation_id", "causation_id")


@dataclass(slots=True)
class Context:
    """Who, why and when in the world: what the events of an append may share. Checked."""

    actor_id: str | None = None
    role: str | None = None
    reason: str | None = None
    occurred_at: int | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    source: str | None = None

    def columns(self) -> tuple[int | str | None, ...]:
        """The values in the order of the columns of `events`."""
        return (
            self.occurred_at,
            self.actor_id,
            self.role,
            self.reason,
            self.correlation_id,
            self.causation_id,
            self.source,
        )


@dataclass(slots=True)
class Prepared:
    """A checked operation in the form that is recorded: JSON text and bytes instead of objects.

    None means: keep (UPDATE), or not given. `embed` says that the embedder has still to make the embedding;
    an update with new content and neither keeps the one before (an import knows such). `vector_given` tells a retry
    whether the embedding is the caller's own and so has to agree. `recorded_at` and `salt` are given by imports only.
    """

    type: EventType
    memory_id: str | None
    content: str | None
    metadata: str | None
    embedding: bytes | None
    expected_version: int | None
    event_id: str | None
    context: Context
    embed: bool = False
    vector_given: bool = False
    recorded_at: int | None = None
    salt: bytes | None = None


def prepare_context(
    *,
    actor_id: Any = None,
    role: Any = None,
    reason: Any = None,
    occurred_at: Any = None,
    correlation_id: Any = None,
    causation_id: Any = None,
    source: Any = None,
) -> Context:
    """Check what the events of an append share."""
    return Context(
        actor_id=None if actor_id is None else check_id("actor_id", actor_id),
        role=None if role is None else check_id("role", role),
        reason=None if reason is None else check_text("reason", reason),
        occurred_at=None if occurred_at is None else parse_instant(occurred_at, "occurred_at"),
        correlation_id=None if correlation_id is None else check_id("correlation_id", correlation_id),
        causation_id=None if causation_id is None else check_id("causation_id", causation_id),
        source=None if source is None else check_id("source", source),
    )


def prepare(operation: Operation, shared: Mapping[str, Any], dimension: int | None, *, allow_zero: bool) -> Prepared:
    """Check one operation. `shared` holds the append's own context, used where the operation has none."""
    if not isinstance(operation, (Add, Update, Delete)):
        raise InvalidOperation(f"{operation!r} is no operation: give Add, Update or Delete")
    context = prepare_context(
        **{name: own if (own := getattr(operation, name)) is not None else shared.get(name) for name in CONTEXT_FIELDS},
        source=shared.get("source"),
    )
    memory_id = None if operation.memory_id is None else check_id("memory_id", operation.memory_id)
    event_id = None if operation.event_id is None else check_id("event_id", operation.event_id)
    expected: int | None = None
    if not isinstance(operation, Add) and operation.expected_version is not None:
        expected = check_count("expected_version", operation.expected_version)
    if isinstance(operation, Delete):
        return Prepared("DELETE", memory_id, None, None, None, expected, event_id, context)
    content = None if operation.content is None else check_content(operation.content)
    metadata = None if operation.metadata is None else metadata_json(operation.metadata)
    embedding: bytes | None = None
    if operation.vector is not None:
        embedding = check_vector("vector", operation.vector, dimension, allow_zero=allow_zero).tobytes()
    if isinstance(operation, Add):
        metadata = metadata or "{}"
    elif content is None and metadata is None and embedding is None:
        raise InvalidOperation(
            f"update of {memory_id!r} changes nothing: give content, vector or metadata ({{}} empties metadata)"
        )
    return Prepared(
        operation.type,
        memory_id,
        content,
        metadata,
        embedding,
        expected,
        event_id,
        context,
        embed=content is not None and embedding is None,
        vector_given=embedding is not None,
    )


def column(name: str, values: Sequence[Any] | None, rows: int) -> Sequence[Any] | None:
    """A column of `add_many`: as long as the others, or absent."""
    if values is None:
        return None
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
        raise InvalidOperation(f"{name} is of type {type(values).__name__}: give a list, one value for each content")
    if len(values) != rows:
        raise InvalidOperation(f"{name} has {len(values)} values for {rows} contents: give one each")
    return values
