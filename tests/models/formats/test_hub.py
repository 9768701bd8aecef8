"""Uploading to the hub: the real client against a hub on this machine."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import re
import threading
import time

import pytest

from codesign.cli import main
from codesign.errors import RunError, UserError
from codesign.models.formats.hub import push_to_hub


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub's interface takes for an upload of small files; `server.kept` has it."""

    def do_POST(self):
        here = f"http://{self.headers['Host']}"
        kept, data = self.server.kept, self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer hf_right":
            return self._answer({"error": "Invalid credentials"}, 401)
        if self.path == "/api/repos/create":
            wanted = json.loads(data)
            name = f"{wanted['organization']}/{wanted['name']}"
            hidden = wanted.get("private") or wanted.get("visibility") == "private"
            kept[name] = {"private": bool(hidden), "branches": ["main"], "files": {}}
            return self._answer({"url": f"{here}/{name}"})
        if self.path == "/api/validate-yaml":
            assert json.loads(data)["content"].startswith("---\ntags: [codesign]\n---\n")
            return self._answer({"errors": [], "warnings": []})
        path = self.path.partition("?")[0]
        repo, what, branch = re.fullmatch(r"/api/models/(\w+/\w+)/(\w+)/(\w+)", path).groups()
        if what == "branch":
            kept[repo]["branches"].append(branch)
            return self._answer({})
        assert branch in kept[repo]["branches"]
        if what == "preupload":
            asked = [file["path"] for file in json.loads(data)["files"]]
            files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]
            return self._answer({"files": files})
        header, *files = map(json.loads, data.splitlines())
        kept[repo]["message"] = header["value"]["summary"]
        for file in files:
            content = base64.b64decode(file["value"]["content"])
            kept[repo]["files"][branch, file["value"]["path"]] = content
        commit = {"commitUrl": f"{here}/{repo}/commit/1", "commitOid": "1", "success": True}
        return self._answer(commit)

    def do_GET(self):
        self._answer({"siblings": [], "sha": "0", "id": "x/y"})

    def _answer(self, obj, code=200):
        text = json.dumps(obj).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.kept = {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub.constants as constants

    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        yield server.kept


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "small"
    (place / "weights").mkdir(parents=True)
    (place / "README.md").write_text("---\ntags: [codesign]\n---\n\n# small\n")
    (place / "config.json").write_text("{}")
    (place / "weights" / "d").write_bytes(b"\x00\x01")
    (place / "run.lock").touch()
    return place


def test_a_folder_is_uploaded(hub, folder, capsys):
    assert main(["push", str(folder), "someone/small", "--private"]) == 0
    assert re.fullmatch(r"http://127.+/someone/small/commit/1\n", capsys.readouterr().out)
    kept = hub["someone/small"]
    assert kept["private"] and kept["message"] == "Upload small by codesign"
    names = ("README.md", "config.json", "weights/d")
    assert kept["files"] == {("main", name): (folder / name).read_bytes() for name in names}


def test_a_branch_is_made(hub, folder):
    push_to_hub(folder, "someone/small@next", message="better")
    push_to_hub(folder, "someone/other", revision="next")
    for name in ("someone/small", "someone/other"):
        assert {branch for branch, _ in hub[name]["files"]} == {"next"}
        assert not hub[name]["private"]
    assert hub["someone/small"]["message"] == "better"


def test_what_the_hub_refuses_is_one_line(hub, folder, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(RunError, match=r"^the hub refuses someone/small: .*Invalid credentials"):
        push_to_hub(folder, "someone/small")
    assert main(["push", str(folder), "someone/small"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_without_network_or_token_it_ends_within_seconds(hub, folder, monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    began = time.monotonic()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot reach the hub at http://127\.0\.0\.1:9: "):
        push_to_hub(folder, "someone/small")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "none either"))
    with pytest.raises(UserError, match="wants a token: `hf auth login`, or HF_TOKEN"):
        push_to_hub(folder, "someone/small")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push_to_hub(folder, "someone/small")
    assert time.monotonic() - began < 10


def test_what_cannot_be_meant_is_refused(hub, folder):
    with pytest.raises(UserError, match="'small' is no name of the hub; one looks like OWNER/NAME"):
        push_to_hub(folder, "small")
    with pytest.raises(UserError, match="is no folder"):
        push_to_hub(folder / "none", "someone/small")
    with pytest.raises(UserError, match="contradict each other"):
        push_to_hub(folder, "someone/small@a", revision="b")
    (folder / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="folder of a whole run; push what it delivers"):
        push_to_hub(folder, "someone/small")
    assert not hub
