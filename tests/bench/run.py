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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="the file to write; default: print")
    parser.add_argument("--only", help="one room")
    options = parser.parse_args()
    parts = [
        HEAD.format(
            day=datetime.now(UTC).date(),
            cores=os.cpu_count(),
            python=platform.python_version(),
            kernel=platform.release().partition("-")[0],
        )
    ]
    missed = 0
    for bench in sorted(HERE.glob("bench_*.py")):
        room = bench.stem.removeprefix("bench_")
        if options.only and room != options.only:
            continue
        print(f"{room} ...", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, bench, "--json"], stdout=subprocess.PIPE, text=True, check=True)
        rows = json.loads(done.stdout)
        lines = [f"\n## {room}\n", f"`python {bench.relative_to(HERE.parent.parent)}`\n"]
        lines += ["| what | value | ratio | goal | |", "|---|---|---|---|---|"]
        for row in rows:
            ratio, goal = row.get("ratio"), row.get("goal")
            met = "" if goal is None or ratio is None else ("met" if ratio >= goal else "**missed**")
            missed += met == "**missed**"
            lines.append(
                f"| {row['what']} | {row['value']} {row['unit']} | {'' if ratio is None else f'{ratio:.2f}'} "
                f"| {'' if goal is None else f'>= {goal}'} | {met} |"
            )
        parts.append("\n".join(lines) + "\n")
    text = "\n".join(parts)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
        print(f"wrote {options.write}", file=sys.stderr)
    else:
        print(text)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
