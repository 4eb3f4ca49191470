"""Access events as a city's platform would log them: invented people, cases and reasons, the same for every seed."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from secguard.core.clock import rfc3339

__all__ = ["NEEDLE", "write_accesses"]

NEEDLE = "走失老人"
"""A reason that the demo searches for."""

_PEOPLE = (
    ("甲一平", "值班员", "江北分局指挥中心"),
    ("乙双喜", "侦查员", "城东派出所"),
    ("丙三宁", "侦查员", "刑侦支队"),
    ("丁四海", "交警", "交通管理支队"),
    ("戊五福", "运维工程师", "视频运维中心"),
    ("己六顺", "审计员", "督察支队"),
    ("庚七星", "值班员", "城西派出所"),
    ("辛八方", "平台管理员", "科技信息化支队"),
)
_KINDS = (
    ("video.viewed", 46),
    ("video.played", 22),
    ("video.queried", 14),
    ("video.downloaded", 6),
    ("video.exported", 2),
    ("video.shared", 1),
    ("camera.controlled", 5),
    ("user.logged-in", 4),
)
_REASONS = (
    ("查找走失老人", 4),
    ("交通事故责任认定", 10),
    ("入室盗窃案件侦查", 12),
    ("重点区域巡查", 30),
    ("大型活动安保", 10),
    ("设备画面质量巡检", 24),
    ("群众求助：寻找遗失物品", 10),
)


def write_accesses(path: Path, cameras: Sequence[str], count: int, until: datetime, *, seed: int = 7) -> None:
    """Write `count` events as JSON lines, spread over the 30 days before `until`.

    Args:
        path: the file to write.
        cameras: GB IDs of the cameras that are accessed.
        count: number of events.
        until: aware time of the newest event.
        seed: the same seed gives the same events.
    """
    rng = random.Random(seed)
    kinds = rng.choices([k for k, _ in _KINDS], [w for _, w in _KINDS], k=count)
    reasons = rng.choices([r for r, _ in _REASONS], [w for _, w in _REASONS], k=count)
    start = until - timedelta(days=30)
    step = timedelta(days=30) / max(count, 1)
    with path.open("wb") as file:
        for number, (kind, reason) in enumerate(zip(kinds, reasons, strict=True)):
            name, role, org = rng.choice(_PEOPLE)
            taken = kind in {"video.downloaded", "video.exported", "video.shared"}
            event = {
                "id": f"platform-{seed}-{number:08d}",
                "kind": kind,
                "time": rfc3339((start + step * number).replace(microsecond=0)),
                "actor": {
                    "name": name,
                    "role": role,
                    "org": org,
                    "address": f"10.16.{rng.randrange(8)}.{rng.randrange(1, 255)}",
                },
                "subject": rng.choice(cameras) if kind != "user.logged-in" else "platform",
                "case": f"A3201{until.year}{rng.randrange(400):04d}" if taken else "",
                "reason": reason,
                "outcome": "denied" if rng.random() < 0.01 else "success",
                "data": {"bytes": rng.randrange(1 << 20, 1 << 30)} if taken else {},
            }
            file.write(msgspec.json.encode(event) + b"\n")
