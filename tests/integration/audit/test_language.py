"""Every table and closing line of the audit and ledger commands, asked for in Chinese."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Events = Callable[..., bytes]

_NAMES = {"SHA-256"}


def test_tables_and_lines_are_chinese(site: Any, events: Events, tmp_path: Path) -> None:
    file, config = tmp_path / "events.jsonl", site.folder / "secguard.toml"
    file.write_bytes(events(60) + b"no event\n")
    config.write_text(config.read_text() + '[audit.sources.api]\nkind = "http"\nlisten = "127.0.0.1:0"\nplain = true\n')
    said = {
        args: site.run(*args, "--lang", "zh", code=code).stderr
        for args, code in (
            (("import", file), 1),
            (("import", file), 1),
            (("search", "张伟", "--limit", "3"), 0),
            (("search", "--count-by", "actor", "--limit", "2"), 0),
            (("search", "--histogram", "day"), 0),
            (("search", "张伟", "-o", tmp_path / "x.csv"), 0),
            (("report", "--period", "2026-10", "--zone", "+08:00"), 0),
            (("hold", "add", "--case", "案2026-1"), 0),
            (("hold", "list"), 0),
            (("prune", "--dry-run"), 0),
            (("prune",), 0),
            (("index",), 0),
            (("reconcile",), 0),
            (("reindex",), 0),
            (("rejected",), 0),
            (("token", "add", "vms", "--source", "api", "-o", tmp_path / "token"), 0),
            (("token", "list"), 0),
            (("token", "withdraw", "vms"), 0),
            (("collect", "--status"), 3),
        )
    }
    for args, text in said.items():
        assert re.search("[一-鿿]", text), args
        for line in text.splitlines():
            if line.startswith("┃"):
                heads = [head.strip() for head in line.strip("┃").split("┃")]
                assert all(re.search("[一-鿿]", head) for head in heads if head and head not in _NAMES), (args, line)
        closing = [line for line in text.splitlines() if line[:1] not in set("│┃┏┡└ ")]
        assert all(re.search("[一-鿿]", line) for line in closing), (args, closing)
    assert "齐全性" in said["import", file]
