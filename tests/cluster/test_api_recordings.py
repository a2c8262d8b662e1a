"""``/api/v1/recordings``, of one process and of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.workers.real_node import eventually, real_node


async def test_what_workers_record(tmp_path: Path) -> None:
    files = tmp_path / "files"
    settings = ["record.streams=live/*", f"record.directory={files}", "record.format=flv"]
    async with real_node(tmp_path / "node", *settings, workers=2) as node:
        for key in ("live/a", "live/b", "other/cam"):
            await node.publish(key)

        async def listed(state: str) -> bool:
            found = (await node.get("/api/v1/recordings"))["recordings"]
            return [(each["stream"], each["state"]) for each in found] == [("live/a", state), ("live/b", state)]

        await eventually(lambda: listed("recording"))
        [first, _] = (await node.get("/api/v1/recordings"))["recordings"]
        assert first["bytes"] > 0 and first["seconds"] >= 0 and Path(first["file"]).is_relative_to(files)
        assert (first["files"], first["dropped"], first["error"]) == (0, 0, "")
        [told] = (await node.get("/api/v1/explain?stream=live/a"))["explain"]["recordings"]
        assert (told["stream"], told["file"]) == ("live/a", first["file"])
        assert (await node.get("/api/v1/explain?stream=other/cam"))["explain"]["recordings"] == []
        await node.leave()

        async def complete() -> bool:
            metrics = await node.metrics()
            return metrics["pyrtmp_recorded_files_total"] == 2 and metrics['pyrtmp_recordings{state="recording"}'] == 0

        await eventually(complete)
        assert (await node.metrics())["pyrtmp_recorded_bytes_total"] >= sum(
            path.stat().st_size for path in files.rglob("*.flv")
        )
        summary = (await node.get("/api/v1/summaries"))["data"]["cluster"]
        assert (summary["recordings"], summary["recorded_files"], summary["recording_failures"]) == ({}, 2, 0)


async def test_what_cannot_be_recorded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = ["record.streams=live/*", f"record.directory={tmp_path / 'file' / 'recordings'}"]
    async with real_node(tmp_path / "node", *settings, workers=0) as node:
        await node.publish("live/cam")

        async def fails() -> bool:
            return (await node.metrics())["pyrtmp_recording_failures_total"] > 0

        await eventually(fails)
        [waiting] = (await node.get("/api/v1/recordings"))["recordings"]
        assert (waiting["state"], waiting["files"]) == ("waiting", 0) and "Not a directory" in waiting["error"]
        assert (await node.metrics())['pyrtmp_recordings{state="waiting"}'] == 1


@pytest.mark.parametrize("workers", [0, 2])
async def test_orders(tmp_path: Path, workers: int) -> None:
    files = tmp_path / "files"
    settings = ["record.streams=live/always", f"record.directory={files}", "record.format=flv"]
    async with real_node(tmp_path / "node", *settings, workers=workers) as node:

        async def order(method: str, stream: str, status: int = 200) -> str:
            said: list[str] = []

            async def answered() -> bool:  # a worker that is late is not asked
                found, answer = await node.order(method, f"/api/v1/recordings?stream={stream}")
                said.append(str(answer.get("error", "")))
                return found == status

            await eventually(answered)
            return said[-1]

        async def are_recorded(*streams: str) -> bool:
            found = (await node.get("/api/v1/recordings"))["recordings"]
            return tuple(each["stream"] for each in found) == streams

        async def complete(name: str, number: int) -> bool:
            return len(list((files / name).glob("*.flv"))) == number

        assert "nobody publishes" in await order("POST", "live/cam", 404)
        assert "a stream is app/name" in await order("POST", "cam", 400)
        cam, always = [await node.publish(key) for key in ("live/cam", "live/always")]
        await eventually(lambda: cam.sent > 5 and always.sent > 5)
        await eventually(lambda: are_recorded("live/always"))
        for _ in range(2):  # once more is the same
            await order("POST", "live/cam")
            await eventually(lambda: are_recorded("live/always", "live/cam"))
        await order("DELETE", "live/always")
        await eventually(lambda: are_recorded("live/cam"))
        # What settings say is not asked for this publisher any more.
        assert (await node.order("POST", "/api/v1/reload"))[0] == 200
        await eventually(lambda: are_recorded("live/cam"))
        await eventually(lambda: complete("live/always", 1))
        await node.leave(cam, always)
        await eventually(lambda: complete("live/cam", 1))
        # It is for the next one.
        await node.publish("live/cam")
        await node.publish("live/always")
        await eventually(lambda: are_recorded("live/always"))


async def test_without_a_place_for_files(tmp_path: Path) -> None:
    async with real_node(tmp_path, workers=0) as node:
        await node.publish("live/cam")
        status, answer = await node.order("POST", "/api/v1/recordings?stream=live/cam")
        assert (status, answer["error"]) == (409, "there is no place for files; set record.directory")
        assert (await node.order("DELETE", "/api/v1/recordings?stream=live/cam"))[0] == 200
        assert not (await node.get("/api/v1/summaries"))["data"]["self"]["recordable"]
