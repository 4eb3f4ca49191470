"""The demo's clip: FFmpeg's moving test picture, encoded as H.264 in MP4 by PyAV."""

from fractions import Fraction
from pathlib import Path

from secguard.core.errors import SystemPartError

__all__ = ["make_clip"]

_RATE = 25


def make_clip(path: Path, *, seconds: int = 8, width: int = 1280, height: int = 720, gop: int = 25) -> None:
    """Encode `seconds` of test picture at 25 frames a second, a GOP of `gop` frames, closed GOPs.

    Raises:
        SystemPartError: PyAV or its x264 is missing.
    """
    try:
        import av
        from av.video.frame import PictureType
        from av.video.stream import VideoStream
    except ImportError as error:
        raise SystemPartError(
            "demo.av.missing", "PyAV is missing", hint="pip install 'secguard[media]', or give --video FILE"
        ) from error
    source = av.open(f"testsrc2=size={width}x{height}:rate={_RATE}:duration={seconds}", format="lavfi")
    with source, av.open(str(path), "w", format="mp4") as sink:
        stream = sink.add_stream("libx264", rate=_RATE)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, _RATE)
        stream.gop_size = gop
        stream.options = {"preset": "veryfast", "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0"}
        for number, frame in enumerate(source.decode(video=0)):
            picture = frame.reformat(format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, _RATE)
            picture.pict_type = PictureType.NONE  # raw frames come marked I, which would make each one a GOP
            sink.mux(stream.encode(picture))
        sink.mux(stream.encode(None))
