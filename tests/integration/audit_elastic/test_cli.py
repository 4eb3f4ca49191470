"""The command line on Elasticsearch: the same commands, chosen by [index], and one clear line when it does not work."""

import io
import json
import sys
from collections.abc import Callable, Generator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from secguard.cli.main import main
from secguard.workspace.site import create_site


def run(*args: object) -> tuple[int, str, str]:
    """The command line in this process, which saves start-ups: exit code, standard output and error."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["secguard", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return int(ended.value.code or 0), said[0], said[1]


@pytest.fixture
def site(elastic: Any, tmp_path: Path) -> Generator[Callable[..., None]]:
    """A workspace, and a way to write its [index]."""
    folder = tmp_path / "site"
    create_site(folder, anchor=folder / "state" / "anchor")
    config = folder / "secguard.toml"
    plain = config.read_text().split("[index]")[0]
    secret = folder / "elastic-password"
    secret.write_text(elastic.passwords["secguard"] + "\n")
    secret.chmod(0o600)

    def write(**values: str) -> None:
        index = {"kind": "elasticsearch", "url": elastic.url, "user": "secguard", "password_file": secret.name}
        index |= {"ca": str(elastic.ca)} if elastic.ca else {}
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in {**index, **values}.items() if value)
        config.write_text(f"{plain}\n[index]\n{''.join(lines)}")

    write()
    yield write
    with elastic.client() as client:
        state = folder / "state" / "index" / "elasticsearch.json"
        for name in json.loads(state.read_text())["indices"] if state.exists() else ():
            client.indices.delete(index=name, ignore_unavailable=True)


def test_the_same_commands_and_clear_errors(
    site: Callable[..., None], elastic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secguard.audit.index.elastic.client.DELAYS", (0.01,))
    folder = tmp_path / "site"
    lines = [
        {"id": f"p-{n}", "kind": "video.viewed", "time": f"2026-10-01T08:00:{n:02d}Z", "actor": {"name": "张三"},
         "subject": "32011600001310000001", "reason": "核查案件线索"} for n in range(20)
    ]  # fmt: skip
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def ask(*args: object, code: int = 0) -> Any:
        ended, out, err = run("audit", *args, "-w", folder, "--json")
        assert ended == code, (args, out, err)
        assert "WARNING" not in err
        return json.loads(out)

    assert ask("import", tmp_path / "events.jsonl")["data"]["recorded"] == 20
    found = ask("search", "线索 actor:张三", "--wait", "--limit", 3)
    assert (found["data"]["total"], len(found["data"]["hits"])) == (20, 3)
    assert ask("reconcile")["data"]["position"] >= 22
    status = json.loads(run("status", "-w", folder, "--json")[1])
    assert status["data"]["index behind"] == 0

    stranger = tmp_path / "stranger"
    stranger.write_text("wrong\n")
    stranger.chmod(0o600)
    for values, code, said in (
        ({"url": "https://127.0.0.1:9"}, "audit.elastic.unreachable", "does not answer"),
        ({"password_file": str(stranger)}, "audit.elastic.credentials", "does not accept"),
        ({"ca": ""}, "audit.elastic.tls", "not to be trusted"),
    ):
        if code == "audit.elastic.tls" and not (elastic.folder / "ready.json").exists():
            continue  # a server of yours may have a certificate that the machine believes
        site(**values)
        error = ask("search", "线索", code=2)["error"]
        assert error["code"] == code
        assert said in error["message"]
        assert error["hint"]
        assert "wrong" not in json.dumps(error)
    site()
    assert ask("reindex")["data"]["events"] >= 22
    assert ask("search", "线索", "--wait")["data"]["total"] == 20
