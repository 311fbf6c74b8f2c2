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
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256

__all__ = ["GENESIS", "event_hash", "payload_digest"]

GENESIS = bytes(32)
"""The hash before the first event."""

_EVENT_TAG = b"asof.event.1"
_PAYLOAD_TAG = b"asof.payload.1"
_NONE = 0xFFFFFFFF
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
    if content is None or metadata is None or embedding is None:
        fields = (_PAYLOAD_TAG, _blob(salt), _text(content), _text(metadata), _blob(embedding))
        return sha256(b"".join(fields)).digest()
    # What most payloads are, written out: this runs for every event that is written or read.
    text, json = content.encode(), metadata.encode()
    return sha256(
        b"".join(
            (
                _PAYLOAD_TAG,
                _LENGTH(len(salt)),
                salt,
                _LENGTH(len(text)),
                text,
                _LENGTH(len(json)),
                json,
                _LENGTH(len(embedding)),
                embedding,
            )
        )
    ).digest()


@lru_cache(maxsize=64, typed=True)  # a number is written as what it is: 5.0 is not 5
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
    # One pack, not a piece at a time: this runs for every event that is written or read.
    event, memory, kind = event_id.encode(), memory_id.encode(), type.encode()
    lengths = len(previous), len(event), len(memory), len(kind), len(digest)
    before = (_NONE,) if prev_seq is None else (8, prev_seq)
    holder = (_NONE,) if embedding_seq is None else (8, embedding_seq)
    pack = _layout(*lengths, prev_seq is None, embedding_seq is None)
    return sha256(
        pack(
            _EVENT_TAG,
            previous,
            8,
            seq,
            lengths[1],
            event,
            lengths[2],
            memory,
            8,
            version,
            *before,
            8,
            add_seq,
            *holder,
            lengths[3],
            kind,
            lengths[4],
            digest,
        )
        + _shared_fields(recorded_at, occurred_at, actor_id, role, reason, correlation_id, causation_id, source)
    ).digest()


@lru_cache(maxsize=512)
def _layout(
    previous: int, event: int, memory: int, kind: int, digest: int, no_prev: bool, no_holder: bool
) -> Callable[..., bytes]:
    # "<" packs without padding, as the fields follow each other.
    before, holder = ("I" if missing else "Iq" for missing in (no_prev, no_holder))
    form = f"<12s{previous}sIqI{event}sI{memory}sIq{before}Iq{holder}I{kind}sI{digest}s"
    return struct.Struct(form).pack
