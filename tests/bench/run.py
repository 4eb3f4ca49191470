"""Run every benchmark and write docs/performance.md: ratios within one run against a peer or a physical limit.

A benchmark is `bench_<room>.py --json`, which prints a list of {what, value, unit, ratio, goal}.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# Performance

Made by `make bench` on {day}: {cores} cores, Python {python}, Linux {kernel}. Absolute numbers belong to that machine;
what counts is the ratio, taken within one run against a peer or a physical limit (bare hashing, a bare journal).
"""


def measure(bench: Path, arguments: list[str]) -> str:
    """Run one benchmark, and return its section."""
    done = subprocess.run([sys.executable, bench, "--json", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    lines = [
        f"`{' '.join(('python', str(bench.relative_to(HERE.parent.parent)), *arguments))}`\n",
        "| what | value | ratio | goal | |",
        "|---|---|---|---|---|",
    ]
    for row in json.loads(done.stdout):
        ratio, goal, value = row.get("ratio"), row.get("goal"), row["value"]
        # A goal in words is for the reader to compare.
        measured = isinstance(goal, int | float) and ratio is not None
        met = "" if not measured else ("met" if ratio >= goal else "**missed**")
        goal = f">= {goal}" if measured else goal or ""
        if not isinstance(value, str):
            value = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        lines.append(
            f"| {row['what']} | {value} {row['unit']} | {'' if ratio is None else f'{ratio:.2f}'} | {goal} | {met} |"
        )
    return "\n".join(lines) + "\n"


def sections(path: Path | None) -> dict[str, str]:
    """The sections of an earlier run, by room."""
    if path is None or not path.exists():
        return {}
    _, *parts = path.read_text(encoding="utf-8").split("\n## ")
    return {name: body.strip() + "\n" for name, _, body in (part.partition("\n") for part in parts)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="the file to write; default: print")
    parser.add_argument("--only", help="measure one room, and keep the others' sections")
    parser.add_argument("arguments", nargs="*", help="of that room's benchmark, after --")
    options = parser.parse_args()
    found = sections(options.write if options.only else None)
    for bench in sorted(HERE.glob("bench_*.py")):
        room = bench.stem.removeprefix("bench_")
        if options.only in {None, room}:
            print(f"{room} ...", file=sys.stderr, flush=True)
            found[room] = measure(bench, options.arguments if options.only else [])
    head = HEAD.format(
        day=datetime.now(UTC).date(),
        cores=os.cpu_count(),
        python=platform.python_version(),
        kernel=platform.release().partition("-")[0],
    )
    text = head + "".join(f"\n## {room}\n\n{body}" for room, body in sorted(found.items()))
    if options.write:
        options.write.write_text(text, encoding="utf-8")
        print(f"wrote {options.write}", file=sys.stderr)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
