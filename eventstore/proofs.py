"""Many rows at once, held against the hash chain and against their digests: for reads of thousands.

What is hashed is said in `eventstore.hashing`; this computes the same with less to do for each row. What holds here is
as it was recorded. Where something does not, whoever asked looks at one row after the other for what that is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from eventstore.hashing import payload_digest
from eventstore.instants import FIRST_INSTANT, LAST_INSTANT

__all__ = ["WRONG_TYPE", "headers_hold", "payloads_hold"]

Row = tuple[Any, ...]

# What hashing raises where a row holds a value of a type that its column cannot hold.
WRONG_TYPE = (TypeError, AttributeError, ValueError, struct.error)

_HASH_LENGTH = 32
_SALT_LENGTH = 16
_NONE = 0xFFFFFFFF
_NULL = b"\xff\xff\xff\xff"
_INTEGER = struct.Struct("<Iq").pack
_LENGTH = struct.Struct("<I").pack
_EVENT_TAG = b"asof.event.1"
_PAYLOAD_START = b"asof.payload.1" + _LENGTH(_SALT_LENGTH)

# A type with its length before it, and that of the digest after it.
_TYPES = {kind: _LENGTH(len(kind)) + kind.encode() + _LENGTH(_HASH_LENGTH) for kind in ("ADD", "UPDATE", "DELETE")}

# Looked up, not made, for every text but a long one.
_LENGTHS = [_LENGTH(length) for length in range(4096)]
_LOOKED_UP = len(_LENGTHS)


def headers_hold(befores: Sequence[Any], rows: Sequence[Row]) -> bool:
    """Whether each of these rows of `events` has the hash that follows from the one beside it in `befores`.

    And a type and instants that can be recorded, of which a chain that was made anew says nothing.
    """
    shape: Row = ()
    context: Row = ()
    pack: Callable[..., bytes] = _LENGTH
    encoded = b""
    # Names that are local are found faster.
    tag, types, none, length, new_hash = _EVENT_TAG, _TYPES, _NONE, _HASH_LENGTH, sha256
    first, last = FIRST_INSTANT, LAST_INSTANT
    try:
        # "32s" cuts what is longer and fills up what is shorter, unsaid.
        if not {length}.issuperset(map(len, befores)):
            return False
        for before, row in zip(befores, rows, strict=True):
            seq, event_id, memory_id, version, prev_seq, add_seq, embedding_seq, kind, recorded_at = row[:9]
            event, memory, digest = event_id.encode(), memory_id.encode(), row[16]
            here = (len(event), len(memory), kind, prev_seq is None, embedding_seq is None)
            if here != shape:
                pack, shape = _layout(*here), here
            if len(digest) != length or not first <= recorded_at <= last:
                return False
            if row[9:16] != context:  # the events of one append mostly share these
                context = row[9:16]
                encoded = _encoded(*context)
            if embedding_seq is None:
                links = (none, 8, add_seq, none) if prev_seq is None else (8, prev_seq, 8, add_seq, none)
                head = pack(
                    tag, before, 8, seq, len(event), event, len(memory), memory, 8, version, *links,
                    types[kind], digest, 8, recorded_at,
                )  # fmt: skip
            elif prev_seq is None:
                head = pack(
                    tag, before, 8, seq, len(event), event, len(memory), memory, 8, version, none, 8, add_seq,
                    8, embedding_seq, types[kind], digest, 8, recorded_at,
                )  # fmt: skip
            else:
                head = pack(
                    tag, before, 8, seq, len(event), event, len(memory), memory, 8, version, 8, prev_seq, 8, add_seq,
                    8, embedding_seq, types[kind], digest, 8, recorded_at,
                )  # fmt: skip
            if new_hash(head + encoded).digest() != row[17]:
                return False
            occurred_at = row[9]  # of this row: 5.0 equals the 5 of the one before
            if occurred_at is not None and (type(occurred_at) is not int or not first <= occurred_at <= last):
                return False
    except (*WRONG_TYPE, KeyError):
        return False
    return True


def payloads_hold(headers: Sequence[Row], payloads: Sequence[Row]) -> bool:
    """Whether these rows of `payloads` belong to these rows of `events`, in order, and have the digests in those."""
    start, null, lengths, looked_up, length_of = _PAYLOAD_START, _NULL, _LENGTHS, _LOOKED_UP, _LENGTH
    join, new_hash = b"".join, sha256
    try:
        for header, (seq, salt, content, metadata, embedding) in zip(headers, payloads, strict=True):
            if content is None or metadata is None or len(salt) != _SALT_LENGTH:
                digest = payload_digest(salt, content, metadata, embedding)
            else:
                text, json = content.encode(), metadata.encode()
                size, json_size = len(text), len(json)
                if embedding is None:
                    embedding_length, embedding = null, b""
                else:
                    embedding_size = len(embedding)
                    embedding_length = (
                        lengths[embedding_size] if embedding_size < looked_up else length_of(embedding_size)
                    )
                digest = new_hash(
                    join(
                        (
                            start,
                            salt,
                            lengths[size] if size < looked_up else length_of(size),
                            text,
                            lengths[json_size] if json_size < looked_up else length_of(json_size),
                            json,
                            embedding_length,
                            embedding,
                        )
                    )
                ).digest()
            if digest != header[16] or seq != header[0]:
                return False
    except WRONG_TYPE:
        return False
    return True


def _encoded(occurred_at: int | None, *texts: str | None) -> bytes:
    """The fields after `recorded_at`."""
    parts = [_NULL if occurred_at is None else _INTEGER(8, occurred_at)]
    for text in texts:
        if text is None:
            parts.append(_NULL)
        else:
            encoded = text.encode()
            parts += (_LENGTH(len(encoded)), encoded)
    return b"".join(parts)


@lru_cache(maxsize=512)
def _layout(event: int, memory: int, kind: str, no_prev: bool, no_holder: bool) -> Callable[..., bytes]:
    """Packs a header up to `recorded_at`; for the lengths of two ids, a type, and which links there are."""
    before, holder = ("I" if missing else "Iq" for missing in (no_prev, no_holder))
    form = f"<12s32sIqI{event}sI{memory}sIq{before}Iq{holder}{len(_TYPES[kind])}s32sIq"
    return struct.Struct(form).pack
