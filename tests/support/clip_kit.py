"""For tests of clips: cut one, judge one."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import video_kit as kit

from secguard.core import FixedClock
from secguard.video import Expectation, VideoVerdict, verify
from secguard.video.clip import Made, clip
from secguard.video.clip_record import clip_path

START = kit.NOW - timedelta(hours=1)
GOP = 12

__all__ = ["GOP", "START", "judge", "make"]


def make(source: Path, target: Path, who: kit.Identity, begin: str, end: str, **options: Any) -> Made:
    values = {"case": "A-2026-42", "clock": FixedClock(kit.NOW), **options}
    with clip([source], target, begin=begin, end=end, signer=who.signer, chain=who.chain, **values) as made:
        assert not target.exists()
    return made


def judge(path: Path, pki: kit.Pki, record: Path | bytes | None = None, **options: Any) -> VideoVerdict:
    data = record if isinstance(record, bytes) else (record or clip_path(path)).read_bytes()
    return verify(path, pki.trust, kit.NOW, Expectation(clip=data, **options))
