"""Fuzz target for ``pyrtmp.media`` and ``pyrtmp.codecs``.

Run it with ``python tests/fuzz/fuzz_media.py tests/fuzz/corpus/media`` where atheris is installed; libFuzzer's options
go behind.  ``test_corpus_media.py`` replays the corpus without atheris.
"""

from __future__ import annotations

import sys
from inspect import isfunction

from pyrtmp.media import (
    FRAME,
    KEY,
    METADATA,
    OTHER,
    SEQUENCE_HEADER,
    MediaError,
    classify_audio,
    classify_video,
    codec_string_audio,
    codec_string_video,
    describe_audio,
    describe_video,
    parse_audio,
    parse_video,
)


def check(data: bytes) -> None:
    """Read ``data`` as a video and as an audio message.  The only permitted exception is ``MediaError``, out of
    ``parse_video`` and ``parse_audio``."""
    kind = classify_video(data)
    assert kind in (FRAME, KEY, SEQUENCE_HEADER, METADATA, OTHER)
    try:
        video_tags = parse_video(data)
    except MediaError:
        pass
    else:
        assert bool(video_tags) == bool(data)
        assert all(tag.kind == kind for tag in video_tags)
        assert sum(len(tag.data) for tag in video_tags) <= len(data)
    video = describe_video(data)
    assert 0 <= video.width <= 65536 and 0 <= video.height <= 65536 and 0 <= video.fps <= 1000
    assert codec_string_video(data).isascii()

    kind = classify_audio(data)
    assert kind in (FRAME, SEQUENCE_HEADER, METADATA, OTHER)
    try:
        audio_tags = parse_audio(data)
    except MediaError:
        pass
    else:
        assert bool(audio_tags) == bool(data)
        assert all(tag.kind == kind for tag in audio_tags)
        assert sum(len(tag.data) for tag in audio_tags) <= len(data)
    audio = describe_audio(data)
    assert 0 <= audio.sample_rate < 1 << 24 and 0 <= audio.channels <= 255
    assert codec_string_audio(data).isascii()


def main() -> None:
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    for name in [name for name in sys.modules if name.startswith(("pyrtmp.media", "pyrtmp.codecs"))]:
        for function in vars(sys.modules[name]).values():
            if isfunction(function) and function.__module__ == name:
                atheris.instrument_func(function)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
