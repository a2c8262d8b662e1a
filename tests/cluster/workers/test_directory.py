"""``cluster.workers.directory``: what one worker knows of the others, with real links."""

from __future__ import annotations

from cluster.workers import messages
from cluster.workers.channel import pair
from pyrtmp.names import StreamKey
from pyrtmp.stream import State
from tests.cluster.workers.members import CAM, Machine, gop, numbers_reach
from tests.pyrtmp.aio.net import eventually

OTHER = StreamKey("live", "other")


async def linked(machine: Machine, count: int = 2) -> None:
    """Every member has a link to every other one."""
    for _ in range(count):
        await machine.member()
    for member in machine.members.values():
        await eventually(lambda member=member: len(member.directory._links) == count - 1)  # type: ignore[misc]


async def test_a_stream_is_held_elsewhere_when_holder_and_link_are_known(machine: Machine) -> None:
    await linked(machine)
    one, other = machine.members.values()
    directory = one.directory
    assert not directory.holds(CAM) and directory.link(CAM) is None and directory.hls_link(CAM) is None
    directory.add_holder(CAM, other.serial)
    assert directory.holds(CAM) and not directory.holds(OTHER)
    link = directory.link(CAM)
    assert link is one.link(other) and directory.hls_link(CAM) is link.hls
    directory.add_holder(OTHER, one.serial)  # its own
    directory.add_holder(StreamKey("live", "third"), 99)  # whose link has not come yet
    assert not directory.holds(OTHER) and not directory.holds(StreamKey("live", "third"))
    directory.remove_holder(CAM)
    directory.remove_holder(CAM)
    assert not directory.holds(CAM) and one.server.hub.directory is directory


async def test_what_is_held_before_its_link_is_there_is_shown_when_it_comes(machine: Machine) -> None:
    one = await machine.member()
    player = await machine.rtmp(one)
    await player.play()
    await eventually(lambda: len(one.server.hub) == 1)
    one.directory.add_holder(CAM, 2)
    assert one.stream().state is State.AWAITED
    two = await machine.member()
    publisher = await machine.publisher(two)
    await gop(publisher, 0)
    await player.until_number(9)
    assert one.stream().relayed


async def test_what_is_published_here_stays_whatever_is_said(machine: Machine) -> None:
    await linked(machine)
    one, other = machine.members.values()
    publisher = await machine.publisher(one)
    player = await machine.player(one)
    one.directory.add_holder(CAM, other.serial)
    assert not one.stream().relayed
    machine.link(one, other)
    await gop(publisher, 0)
    await player.until_number(9)
    assert not one.stream().relayed


async def test_nobody_is_shown_what_nobody_here_asked_for(machine: Machine) -> None:
    await linked(machine)
    one, other = machine.members.values()
    publisher = await machine.publisher(one)
    await gop(publisher, 0)
    await eventually(lambda: other.directory.holds(CAM))
    assert len(other.server.hub) == 0 and not one.stream().outlets


async def test_a_link_that_is_lost_is_told_with_what_its_viewers_saw(machine: Machine) -> None:
    await linked(machine)
    one, other = machine.members.values()
    for name in ("a", "b"):
        publisher = await machine.publisher(one, name)
        await gop(publisher, 0, 10 if name == "a" else 20)
        player = await machine.player(other, name)
        await player.until_number(9 if name == "a" else 19)
    machine.said.clear()
    one.link(other).channel.close()
    await eventually(lambda: len(machine.said) == 3)
    assert machine.said == [
        messages.Seen("live", "a", 360), messages.Seen("live", "b", 760), messages.LinkLost(one.serial)
    ]
    assert not other.directory._links and not other.directory.holds(StreamKey("live", "a"))
    assert all(stream.state is State.GONE for stream in other.server.hub)


async def test_a_link_that_replaces_another_does_not_count_as_lost(machine: Machine) -> None:
    await linked(machine)
    one, other = machine.members.values()
    publisher = await machine.publisher(one)
    await gop(publisher, 0)
    player = await machine.player(other)
    await player.until_number(9)
    old = other.link(one)
    machine.said.clear()
    traffic = other.directory.traffic
    ours, theirs = pair()
    other.directory.add_peer(one.serial, ours)
    assert other.directory.traffic >= traffic > (0, 0)
    assert old.channel.closed and other.link(one) is not old
    assert other.stream().relayed  # it is asked for anew
    one.directory.add_peer(other.serial, theirs)
    await gop(publisher, 10)
    await player.until_number(19)
    assert machine.said == []


async def test_traffic_counts_links_that_are_gone(machine: Machine) -> None:
    await linked(machine, 3)
    one, other, third = machine.members.values()
    publisher = await machine.publisher(one)
    await gop(publisher, 0)
    tapes = [await machine.player(other), await machine.player(third)]
    await numbers_reach(tapes, 9)
    received, sent = other.directory.traffic
    assert received > 0 and sent > 0
    # Nothing is counted twice, and what one sent the other received.
    assert one.directory.traffic[1] == received + third.directory.traffic[0]
    one.link(other).close()
    await eventually(lambda: one.serial not in other.directory._links)
    assert other.directory.traffic == (received, sent)


async def test_close_hangs_up_on_all(machine: Machine) -> None:
    await linked(machine, 3)
    one, other, third = machine.members.values()
    one.directory.close()
    await eventually(lambda: len(other.directory._links) == len(third.directory._links) == 1)
    assert not one.directory._links
    assert [type(message) for message in machine.said] == [messages.LinkLost] * 2
