"""What a recording holds, without judging it: container, NAL units, GOPs, signing data."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from secguard.core import FormatError, rfc3339
from secguard.video.nal import open_stream
from secguard.video.sei import parse

__all__ = ["inspect"]

_NAMES = {
    "h264": {1: "slice", 2: "partition A", 3: "partition B", 4: "partition C", 5: "IDR slice", 6: "SEI", 7: "SPS"}
    | {8: "PPS", 9: "AUD", 10: "end of sequence", 11: "end of stream", 12: "filler"},
    "h265": {0: "TRAIL_N", 1: "TRAIL_R", 2: "TSA_N", 3: "TSA_R", 4: "STSA_N", 5: "STSA_R", 6: "RADL_N", 7: "RADL_R"}
    | {8: "RASL_N", 9: "RASL_R", 16: "BLA_W_LP", 17: "BLA_W_RADL", 18: "BLA_N_LP", 19: "IDR_W_RADL", 20: "IDR_N_LP"}
    | {21: "CRA", 32: "VPS", 33: "SPS", 34: "PPS", 35: "AUD", 39: "SEI prefix", 40: "SEI suffix"},
}
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)
_MAX_SEIS = 10_000


def _moment(ticks: int) -> str:
    try:
        return rfc3339(_EPOCH + timedelta(microseconds=ticks // 10)) if ticks else ""
    except OverflowError:
        return ""


def inspect(path: Path) -> dict[str, Any]:
    """Tracks, counts, NAL units by type, and what each SEI of ONVIF Media Signing says; JSON values.

    Raises:
        UsageError: no such file.
        FormatError: its container is not read here, is cut off, or holds no H.264 or H.265.
    """
    stream = open_stream(path)
    source, nals, samples = stream.source, stream.nals, stream.samples
    names = _NAMES[nals.codec]
    kinds = []
    for kind in np.unique(nals.kind).tolist():
        chosen = nals.kind == kind
        total = int((nals.end[chosen] - nals.offset[chosen]).sum())
        kinds.append({"type": names.get(kind, f"type {kind}"), "count": int(chosen.sum()), "bytes": total})
    seis: list[dict[str, Any]] = []
    for index in np.flatnonzero(nals.sei).tolist()[:_MAX_SEIS]:
        start, end = int(nals.offset[index]), int(nals.end[index])
        problem, sei = "", None
        try:
            sei = parse(bytes(source.data[start:end]), nals.codec)
        except FormatError as error:
            problem = error.message
        if sei is None and not problem:
            continue
        seis.append(
            {
                "counter": sei.counter if sei else None,
                "slices": (len(sei.hashes) // max(len(sei.gop_hash), 1) or sei.count) if sei else None,
                "partial": sei.partial if sei else None,
                "start": _moment(sei.start) if sei else "",
                "end": _moment(sei.end) if sei else "",
                "bytes": end - start,
                "serial": sei.vendor[1] if sei else "",
                "problem": problem or ("" if sei and sei.signature else "unsigned"),
            }
        )
    return {
        "container": source.container,
        "codec": nals.codec,
        "tracks": [
            {"handler": item.handler, "codec": item.codec, "entry": item.entry, "timescale": item.timescale}
            for item in source.tracks
        ],
        "frames": len(np.unique(nals.sample[nals.vcl])),
        "gops": int(nals.leads.sum()),
        "nals": len(nals),
        "seconds": float(samples.delta.sum()) / stream.track.timescale,
        "edit_list": [list(row) for row in stream.track.edits],
        "nal_types": kinds,
        "seis": seis,
    }
