"""What to ask of a history that nobody has seen before: a question whose answer has changed, and since when."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from eventstore import AsOf, EventStore, Memory
from examples.sources import Story
from projections import Hit, Hits, VectorIndex
from replay.cli.text import instant, one_line

__all__ = ["Life", "Moment", "Question", "Survey", "choose", "choose_memory", "survey", "tell"]

K = 5


@dataclass(frozen=True)
class Moment:
    """What was recorded at once, a commit or a chat: its last position, and what was said of it."""

    position: int
    recorded_at: datetime
    actor: str | None
    reason: str | None
    key: str | None
    as_of: AsOf
    """What to pass to get back to it: its instant, or its position where others share the instant."""


@dataclass
class Life:
    """All that happened to one memory, in numbers."""

    memory_id: str
    versions: int = 0
    position: int = 0
    first: int = 0
    alive: bool = False
    adds: int = 0
    actors: set[str | None] = field(default_factory=set)


@dataclass(frozen=True)
class Survey:
    """A history in numbers."""

    types: Counter[str]
    actors: set[str]
    moments: list[Moment]
    lives: dict[str, Life]


@dataclass(frozen=True)
class Question:
    """A question, a moment to go back to, and the answers now and as of then."""

    text: str
    moment: Moment
    now: Hits
    then: Hits


def survey(store: EventStore) -> Survey:
    """One pass over all events."""
    types: Counter[str] = Counter()
    lives: dict[str, Life] = {}
    last: list[Moment] = []
    moments: list[Moment] = []
    for event in store.events():
        types[event.type] += 1
        life = lives.setdefault(event.memory_id, Life(event.memory_id, first=event.position))
        life.versions, life.position, life.alive = event.version, event.position, event.type != "DELETE"
        life.adds += event.type == "ADD"
        life.actors.add(event.actor_id)
        moment = Moment(
            event.position, event.recorded_at, event.actor_id, event.reason, event.correlation_id, event.position
        )
        if last and (last[0].recorded_at, last[0].key) != (moment.recorded_at, moment.key):
            moments += _settled(last[0], moment)
        last = [moment]
    moments += _settled(last[0], None) if last else ()
    actors = {actor for life in lives.values() for actor in life.actors if actor is not None}
    return Survey(types, actors, moments, lives)


def _settled(moment: Moment, following: Moment | None) -> Iterator[Moment]:
    alone = following is None or following.recorded_at > moment.recorded_at
    as_of: AsOf = instant(moment.recorded_at).replace(" ", "T") if alone else moment.position
    yield Moment(moment.position, moment.recorded_at, moment.actor, moment.reason, moment.key, as_of)


def tell(index: VectorIndex, store: EventStore, found: Survey, story: Story) -> Question:
    """The question of a history that is known."""
    event = next(event for event in store.events() if event.event_id == story.decision)
    moment = next(moment for moment in found.moments if moment.position >= event.position)
    moment = replace(moment, reason=event.content)
    return Question(
        story.question,
        moment,
        index.search(story.question, K),
        index.search(story.question, K, as_of=moment.as_of),
    )


def choose(index: VectorIndex, store: EventStore, found: Survey) -> Question:
    """A question and an earlier moment with answers that differ most tellingly.

    Words from files that changed much, came late or went are asked for now and as of some earlier moments. That
    the answers differ somewhere is certain: the last moment changed some memory, and its own text finds it.
    """
    queries = list(_queries(store, found))
    texts = [query.text for query in queries]
    now = index.search_many(texts, K)
    best: tuple[float, Question] | None = None
    for moment in _earlier(found):
        for query, today, past in zip(queries, now, index.search_many(texts, K, as_of=moment.position)):
            worth = _worth(query, today, past)
            if best is None or worth > best[0]:
                best = worth, Question(query.text, moment, today, past)
    assert best is not None, "survey found fewer than two moments"
    return best[1]


def _earlier(found: Survey) -> list[Moment]:
    """Some moments before the last one, those in the middle first; where there is a choice, of no routine."""
    last = len(found.moments) - 2
    often = Counter(moment.reason for moment in found.moments)
    places = []
    for share in (0.5, 0.65, 0.35, 0.8, 0.2):
        place = round(last * share)
        around = range(place, max(-1, place - min(10, last // 10) - 1), -1)
        places.append(min(around, key=lambda near: often[found.moments[near].reason]))
    return [found.moments[place] for place in dict.fromkeys((*places, last))]


def _worth(query: _Query, now: Hits, then: Hits) -> float:
    """How well two answers show that the past was another: other first answers, and several reasons why."""
    if key(now) == key(then):
        return -2.0
    if not now or not then or len(query.text) > 80:
        return -1.0
    present, past = {hit.memory_id: hit for hit in now}, {hit.memory_id: hit for hit in then}
    is_new = any(memory_id not in past for memory_id in present)
    is_gone = any(memory_id not in present for memory_id in past)
    is_changed = any(memory_id in past and past[memory_id].version != hit.version for memory_id, hit in present.items())
    is_same = any(memory_id in past and past[memory_id].version == hit.version for memory_id, hit in present.items())
    worth = 0.5 * is_new + 0.5 * is_gone + is_changed + is_same + min(1.0, len(then) / K)
    worth += 3.0 * (now[0].memory_id != then[0].memory_id)
    # The answers have to be about the question, so that a reader sees why they were given.
    worth += query.is_phrase + 2.0 * (query.memory_id in (now[0].memory_id, then[0].memory_id))
    for hits in (now, then):
        worth += 2.0 * _share(query.text, hits[0]) + 4.0 * sum(min(0.4, hit.score) for hit in hits[:3]) / 3
    return worth + 0.5 * (_kind(now[0].memory_id) + _kind(then[0].memory_id))


def _share(text: str, hit: Hit) -> float:
    """How many of a question's words an answer has in its name or its text."""
    words = set(_words(text))
    return len(words & set(_words(f"{hit.memory_id} {hit.content}"))) / len(words) if words else 0.0


def key(hits: Iterable[Hit]) -> list[tuple[str, int]]:
    """What an answer is, apart from its scores."""
    return [(hit.memory_id, hit.version) for hit in hits]


# Queries


class _Query(NamedTuple):
    text: str
    memory_id: str
    is_phrase: bool


def _queries(store: EventStore, found: Survey) -> Iterator[_Query]:
    rare = _Rarity(memory.content for memory in store.memories(limit=500, order="-position"))
    for memory in _subjects(store, found):
        if heading := title(memory.content):
            yield _Query(heading, memory.memory_id, True)
        if words := rare.words(memory.content):
            yield _Query(words, memory.memory_id, False)
    # The last moment's own text, whatever it is: the answers before and after it differ.
    last = max(found.lives.values(), key=lambda life: life.position)
    yield _Query(_last_state(store, last).content, last.memory_id, False)


def _subjects(store: EventStore, found: Survey) -> Iterator[Memory]:
    """Memories that changed much, came late, or went: prose before code before data."""
    lives = sorted(found.lives.values(), key=lambda life: -_kind(life.memory_id))
    alive, gone = [life for life in lives if life.alive], [life for life in lives if not life.alive]
    changed = sorted(alive, key=lambda life: -_kind(life.memory_id) * min(life.versions, 12))[:10]
    late = sorted(alive, key=lambda life: -_kind(life.memory_id) * life.first)[:8]
    went = sorted(gone, key=lambda life: -_kind(life.memory_id) * life.position)[:6]
    chosen = {life.memory_id: life for life in (*changed, *late, *went)}
    for life in chosen.values():
        yield _last_state(store, life)


def _last_state(store: EventStore, life: Life) -> Memory:
    memory = store.get(life.memory_id, as_of=life.position if life.alive else life.position - 1)
    assert memory is not None
    return memory


_PROSE = frozenset({"md", "rst", "txt", "adoc", "org", "markdown", "tex"})
_DATA = frozenset(
    {"json", "lock", "csv", "svg", "xml", "yml", "yaml", "toml", "ini", "cfg", "map", "sum", "po", "snap"}
)

_ABOUT = (".", "license", "copying", "changelog", "changes", "history.", "news")


def _kind(memory_id: str) -> float:
    """1 for prose, less for code, little for data and for what is about the repository itself."""
    name = memory_id.rsplit("/", 1)[-1].lower()
    extension = name.rsplit(".", 1)[-1] if "." in name.lstrip(".") else ""
    if extension in _DATA or memory_id.startswith(".") or name.startswith(_ABOUT):
        return 0.2
    return 1.0 if extension in _PROSE else 0.7 if extension else 0.5


_WORD = re.compile(r"[^\W\d_]{4,18}")
_CLAUSES = re.compile(r"[.:,;!?()`*\"]+(?:\s+|$)|\s[-–—=]+\s")
_MARKS = " \t#*=-/\"'`;!<>%|{}()[]~_:.,\\"
_UNTITLED = re.compile(r"licen[cs]e|copyright|http|import |include|coding[:=]|usr/bin|[${}<>=;\\]", re.IGNORECASE)


def title(content: str) -> str | None:
    """The first clause that reads like a heading, in the first lines: up to nine words, nearly all of them letters."""
    lines = [line for line in content[:4000].splitlines() if line.strip() and not _UNTITLED.search(line)]
    for clause in itertools.chain.from_iterable(map(_CLAUSES.split, lines[:6])):
        text = one_line(clause).strip(_MARKS)
        letters = sum(character.isalpha() or character == " " for character in text)
        if len(_words(text)) >= 2 and 3 <= len(text.split()) <= 9 and len(text) <= 60 and letters >= 0.85 * len(text):
            return text
    return None


class _Rarity:
    """How rare words are among some texts."""

    def __init__(self, contents: Iterable[str]) -> None:
        self._texts = 0
        self._containing: Counter[str] = Counter()
        for content in contents:
            self._texts += 1
            self._containing.update(set(_words(content)))

    def words(self, content: str) -> str | None:
        """Three words that a text has much of and others have little of, as they come in it."""
        counts = Counter(_words(content))
        weights = {
            word: (1 + math.log(count)) * math.log((1 + self._texts) / (0.5 + self._containing[word]))
            for word, count in counts.items()
        }
        chosen = set(sorted(weights, key=lambda word: -weights[word])[:3])
        return " ".join(word for word in counts if word in chosen) or None


def _words(content: str) -> list[str]:
    return _WORD.findall(content[:20_000].casefold())


# A memory whose history is worth reading


def choose_memory(found: Survey, question: Question) -> str:
    """A memory with some versions, by several people, gone and back again if there is one; found by the question."""
    asked = {hit.memory_id for hit in (*question.now, *question.then)}

    def worth(life: Life) -> float:
        some = min(life.versions, 6) - 0.2 * max(0, life.versions - 12)
        return some * _kind(life.memory_id) + len(life.actors) + 2 * (life.adds > 1) + 1.5 * (life.memory_id in asked)

    return max(found.lives.values(), key=worth).memory_id


def best_line(content: str, query: str) -> str:
    """The line of a text that has most of a query's words in it, the first of them."""
    wanted = set(_WORD.findall(query.casefold()))
    lines: Sequence[str] = [line for line in content.splitlines() if line.strip()] or [content]
    return one_line(max(lines, key=lambda line: len(wanted & set(_WORD.findall(line.casefold())))))
