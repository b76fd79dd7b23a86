import functools
import hashlib
import http.server
import importlib.metadata
import json
import threading
from pathlib import Path

import pytest
import torch

from apv_edu import assets, checkpoint
from apv_edu.errors import InputError

CONTENT = b"a shipped file"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As installed from a wheel: a table of one asset, a server folder, an empty cache."""
    table = assets.make_table(_folder(tmp_path / "server"), {})
    (tmp_path / "assets.json").write_text(json.dumps(table))
    monkeypatch.setattr(assets, "TABLE", tmp_path / "assets.json")
    monkeypatch.setattr(assets, "checkout_assets", lambda: None)
    monkeypatch.setattr(assets, "read_table", lambda: table)
    monkeypatch.setenv("APV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("APV_ASSETS_URL", (tmp_path / "server").as_uri() + "/")
    return tmp_path


def _folder(path: Path) -> Path:
    (path / "models").mkdir(parents=True)
    (path / "models" / "a b.bin").write_bytes(CONTENT)
    (path / "README.md").write_text("not an asset")
    (path / ".hidden").write_text("not an asset")
    return path


def test_the_table_matches_the_files_of_the_checkout():
    folder = assets.checkout_assets()
    assert folder is not None
    table = assets.read_table()
    made = assets.make_table(folder, table)
    assert table == made, "run: python -m apv_edu.assets"
    for name, asset in table.items():
        assert asset["about"], f"{name} lacks a word on what it is"
        assert asset["command"], f"{name} lacks the command that made it"


def test_a_file_of_the_checkout_is_used_in_place(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(assets, "checkout_assets", lambda: _folder(tmp_path / "assets"))
    monkeypatch.setenv("APV_CACHE", str(tmp_path / "cache"))
    assert assets.asset_path("models/a b.bin") == tmp_path / "assets" / "models" / "a b.bin"
    assert not (tmp_path / "cache").exists()


def test_fetched_once_then_from_the_cache(outside: Path):
    path = assets.asset_path("models/a b.bin")
    assert path == outside / "cache" / "models" / "a b.bin"
    assert path.read_bytes() == CONTENT
    (outside / "server" / "models" / "a b.bin").unlink()
    assert assets.asset_path("models/a b.bin") == path


def test_fetched_over_http(outside: Path, monkeypatch: pytest.MonkeyPatch):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(outside / "server"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("APV_ASSETS_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert assets.asset_path("models/a b.bin").read_bytes() == CONTENT
        server.shutdown()


def test_a_damaged_cache_is_fetched_again(outside: Path):
    path = assets.asset_path("models/a b.bin")
    path.write_bytes(CONTENT[:-1])
    assert assets.asset_path("models/a b.bin").read_bytes() == CONTENT


def test_a_damaged_download_is_named_and_not_kept(outside: Path):
    (outside / "server" / "models" / "a b.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=r"'models/a b\.bin' from file.*\(13 bytes .* 14 expected"):
        assets.asset_path("models/a b.bin")
    assert not (outside / "cache").exists()


def test_a_download_cut_short_is_named(outside: Path, monkeypatch: pytest.MonkeyPatch):
    class Short(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:-4])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Short) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("APV_ASSETS_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(InputError, match=r"Cannot fetch .*4 more expected.*check the network"):
            assets.asset_path("models/a b.bin")
        server.shutdown()
    assert not (outside / "cache").exists()


def test_an_address_that_does_not_answer_is_named(outside: Path):
    (outside / "server" / "models" / "a b.bin").unlink()
    with pytest.raises(InputError, match=r"Cannot fetch .*a b\.bin.*set APV_ASSETS_URL"):
        assets.asset_path("models/a b.bin")


@pytest.mark.parametrize("name", ["model/ab.bin", "../assets.json"])
def test_an_unknown_name_gets_the_nearest(outside: Path, name: str):
    with pytest.raises(InputError, match=r"no file or asset '.*the nearest are models/a b\.bin"):
        assets.asset_path(name)


def test_the_address_comes_from_the_projects_metadata(monkeypatch: pytest.MonkeyPatch):
    import email.message

    message = email.message.Message()
    message["Project-URL"] = "Homepage, https://example.org"
    message["Project-URL"] = "Assets, https://example.org/assets/"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _name: message)
    monkeypatch.delenv("APV_ASSETS_URL", raising=False)
    assert assets.assets_url() == "https://example.org/assets"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _name: email.message.Message())
    with pytest.raises(InputError, match="set APV_ASSETS_URL"):
        assets.assets_url()


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "apv_edu"),
        ("win32", "LOCALAPPDATA", "apv_edu/Cache"),
        ("darwin", "HOME", "Library/Caches/apv_edu"),
    ],
)
def test_cache_of_each_platform(tmp_path: Path, monkeypatch, platform, variable, expected):
    monkeypatch.delenv("APV_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert assets.cache_folder() == tmp_path / expected


def test_updating_keeps_words_and_reads_a_models_own_command(tmp_path: Path):
    folder, path = _folder(tmp_path / "assets"), tmp_path / "assets.json"
    old = {"sha256": "0", "bytes": 1, "about": "What it is.", "command": "make it"}
    path.write_text(json.dumps({"models/a b.bin": old, "gone.bin": old}))
    checkpoint.save(
        folder / "m.safetensors", {"w": torch.ones(1)}, {"command": "apv-edu pretrain --seed 3"}
    )
    assert assets.update_table(folder, path) == ["m.safetensors"]
    table = assets.read_table(path)
    assert list(table) == ["m.safetensors", "models/a b.bin"]
    assert table["m.safetensors"]["command"] == "apv-edu pretrain --seed 3"
    assert table["models/a b.bin"] == {
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "bytes": len(CONTENT),
        "about": "What it is.",
        "command": "make it",
    }
