"""The ring of events: readers that keep up, readers that lag, and late readers."""

from engine.events import LAGGING_EVENTS, EventRing, EventType, ExecutionEvent
from engine.graph import Json


def event(ring: EventRing, type_: EventType, **data: Json) -> ExecutionEvent:
    return ExecutionEvent(type_, ring.next_seq(), "e-1", ring.attempt, 1_764_000_000.0, data)


def say(ring: EventRing, text: str, message_id: str = "m") -> None:
    ring.append(event(ring, EventType.TOKEN, message_id=message_id, text=text))


async def read(ring: EventRing, after: int = 0) -> list[ExecutionEvent]:
    ring.close()
    return [one async for one in ring.read(after)]


async def test_a_reader_that_keeps_up_gets_every_token() -> None:
    ring = EventRing()
    for number in range(LAGGING_EVENTS - 1):
        say(ring, str(number))
    assert [one.seq for one in await read(ring)] == list(range(1, LAGGING_EVENTS))


async def test_a_reader_that_lags_gets_the_tokens_of_a_message_joined() -> None:
    ring = EventRing()
    for number in range(LAGGING_EVENTS):
        say(ring, f"{number} ")
    ring.append(event(ring, EventType.NODE_COMPLETED))
    say(ring, "x", "m1")
    say(ring, "y", "m2")
    say(ring, "z", "m2")
    whole = "".join(f"{number} " for number in range(LAGGING_EVENTS))
    assert [(one.type, one.seq, one.data.get("text")) for one in await read(ring)] == [
        ("token", LAGGING_EVENTS, whole),
        ("node_completed", LAGGING_EVENTS + 1, None),
        ("token", LAGGING_EVENTS + 2, "x"),
        ("token", LAGGING_EVENTS + 4, "yz"),
    ]


async def test_events_that_the_ring_has_dropped_become_a_gap() -> None:
    ring = EventRing(size=3)
    for number in range(5):
        say(ring, str(number))
    gap, *rest = await read(ring, 1)
    assert (gap.type, gap.data) == ("gap", {"first": 2, "last": 2})
    assert [one.seq for one in rest] == [3, 4, 5]


async def test_the_ring_is_bounded_in_bytes_but_always_holds_the_newest_event() -> None:
    ring = EventRing(size_bytes=10_000)
    for _ in range(10):
        say(ring, "x" * 3_000)
    assert [one.seq for one in await read(ring, 7)] == [8, 9, 10]
    say(ring, "y" * 20_000)
    assert [one.seq for one in await read(ring, 10)] == [11]


async def test_the_ring_also_holds_an_event_that_is_not_json() -> None:
    ring = EventRing()
    ring.append(event(ring, EventType.NODE_COMPLETED, label="\ud800"))
    assert len(await read(ring)) == 1
