"""The hash chain: what is hashed, byte for byte. docs/reference/file-format.md says it for other languages.

A field is written as its length (uint32, little-endian) and its bytes; a null is the length 0xFFFFFFFF alone.
Integers are int64 little-endian, text is UTF-8, blobs are as they are: what the columns hold, to the byte.

- Payload digest: SHA-256 of the 14 bytes `asof.payload.1`, then the fields salt, content, metadata, embedding.
- Event hash: SHA-256 of the 12 bytes `asof.event.1`, the 32 bytes of the previous event's hash (zeros before
  the first), then the fields seq, event_id, memory_id, version, prev_seq, add_seq, embedding_seq, type,
  payload_digest, recorded_at, occurred_at, actor_id, role, reason, correlation_id, causation_id, source.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import sha256

__all__ = ["GENESIS", "event_hash", "payload_digest"]

GENESIS = bytes(32)
"""The hash before the first event."""

_EVENT_TAG = b"asof.event.1"
_PAYLOAD_TAG = b"asof.payload.1"
_NULL = b"\xff\xff\xff\xff"
_LENGTH = struct.Struct("<I").pack
_INTEGER = struct.Struct("<Iq").pack


def _integer(value: int | None) -> bytes:
    return _NULL if value is None else _INTEGER(8, value)


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    encoded = value.encode()
    return _LENGTH(len(encoded)) + encoded


def _blob(value: bytes | None) -> bytes:
    return _NULL if value is None else _LENGTH(len(value)) + value


def payload_digest(salt: bytes, content: str | None, metadata: str | None, embedding: bytes | None) -> bytes:
    """SHA-256 of a payload row: tag, salt, content, metadata (its JSON text), embedding."""
    return sha256(b"".join((_PAYLOAD_TAG, _blob(salt), _text(content), _text(metadata), _blob(embedding)))).digest()


@lru_cache(maxsize=64)
def _shared_fields(
    recorded_at: int,
    occurred_at: int | None,
    actor_id: str | None,
    role: str | None,
    reason: str | None,
    correlation_id: str | None,
    causation_id: str | None,
    source: str | None,
) -> bytes:
    # These are last because the events of one append mostly share them: encoded once.
    return b"".join(
        (
            _INTEGER(8, recorded_at),
            _integer(occurred_at),
            _text(actor_id),
            _text(role),
            _text(reason),
            _text(correlation_id),
            _text(causation_id),
            _text(source),
        )
    )


def event_hash(
    previous: bytes,
    seq: int,
    event_id: str,
    memory_id: str,
    version: int,
    prev_seq: int | None,
    add_seq: int,
    embedding_seq: int | None,
    type: str,
    recorded_at: int,
    occurred_at: int | None,
    actor_id: str | None,
    role: str | None,
    reason: str | None,
    correlation_id: str | None,
    causation_id: str | None,
    source: str | None,
    digest: bytes,
) -> bytes:
    """SHA-256 over the previous event's hash (`GENESIS` for the first) and this event's header.

    The parameters after `previous` are the columns of `events` in their order, without `hash`.
    """
    # Written out, not by _text and _integer: this runs for every event that is written or read.
    event, memory, kind = event_id.encode(), memory_id.encode(), type.encode()
    return sha256(
        b"".join(
            (
                _EVENT_TAG,
                previous,
                _INTEGER(8, seq),
                _LENGTH(len(event)),
                event,
                _LENGTH(len(memory)),
                memory,
                _INTEGER(8, version),
                _NULL if prev_seq is None else _INTEGER(8, prev_seq),
                _INTEGER(8, add_seq),
                _NULL if embedding_seq is None else _INTEGER(8, embedding_seq),
                _LENGTH(len(kind)),
                kind,
                _LENGTH(len(digest)),
                digest,
                _shared_fields(recorded_at, occurred_at, actor_id, role, reason, correlation_id, causation_id, source),
            )
        )
    ).digest()
