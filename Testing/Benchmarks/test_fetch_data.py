"""The data of the documentation is brought whole and checked, or not at all."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fetch_data

CHECKOUT = Path(__file__).resolve().parents[2]
CONTENT = b"a table of scores\n" * 400


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Leave stderr to what is tested."""


@pytest.fixture
def a_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(address, the folder it serves)"""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def a_table(folder: Path, checksum: str = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()) -> Path:
    table = folder / "table.tsv"
    row = ["mr_art/scores.tsv", "https://public.org/scores.tsv", str(len(CONTENT)), checksum, "", "", "CC0-1.0"]
    table.write_text("file\turl\tbytes\tchecksum\tmade\tvoxels\tlicence\n" + "\t".join(row) + "\n")
    return table


def serve(folder: Path, content: bytes) -> None:
    (folder / "public.org").mkdir(exist_ok=True)
    (folder / "public.org" / "scores.tsv").write_bytes(content)


def test_a_file_is_brought_once(a_server: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address, served = a_server
    serve(served, CONTENT)
    command = [str(tmp_path / "out"), "--mirror", address, "--table", str(a_table(tmp_path))]
    assert fetch_data.main(command) == 0
    (served / "public.org" / "scores.tsv").unlink()
    assert fetch_data.main(command) == 0
    assert (tmp_path / "out" / "mr_art" / "scores.tsv").read_bytes() == CONTENT
    assert capsys.readouterr().out.split("\n")[:2] == ["mr_art/scores.tsv: brought", "mr_art/scores.tsv: there"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONTENT[:-1] + b"!", "checksum"),
        (CONTENT[:100], "100 bytes came"),
        (CONTENT + b"more", "more bytes came"),
        (None, "404"),
    ],
    ids=["another file", "truncated", "longer", "not found"],
)
def test_what_is_not_the_published_file_leaves_one_line_and_no_file(
    content: bytes | None, reason: str, a_server: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, served = a_server
    if content is not None:
        serve(served, content)
    out = tmp_path / "out"
    assert fetch_data.main([str(out), "--mirror", address, "--table", str(a_table(tmp_path))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "mr_art/scores.tsv" in line
    assert reason in line
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_another_file_of_that_name_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "out" / "mr_art" / "scores.tsv"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert fetch_data.main([str(tmp_path / "out"), "--table", str(a_table(tmp_path))]) == 1
    assert mine.read_text() == "mine"
    assert "move it away" in capsys.readouterr().err


def test_a_git_checksum_is_the_id_of_the_blob(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    assert fetch_data.digest_of(tmp_path / "file", "git") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_every_entry_has_a_checksum_and_a_licence() -> None:
    entries = fetch_data.read_table()
    assert len({entry.file for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.licence
        for source in entry.sources:
            kind, digest = source.checksum.split(":")
            assert len(digest) == {"md5": 32, "git": 40, "sha256": 64}[kind]
            assert source.size > 0


@pytest.mark.shared
def test_the_shared_volumes_are_those_of_the_table(shared_data: Path) -> None:
    compared = [e for e in fetch_data.read_table() if e.voxels and "ds000011" in e.file]
    assert all(fetch_data.is_there(entry, shared_data / entry.file) for entry in compared)


def test_the_release_branch_is_one_commit_of_the_same_files(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path / "clone"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    if not (CHECKOUT / ".git").exists():
        pytest.skip("not a git checkout")
    subprocess.run(["git", "clone", "--quiet", "--shared", str(CHECKOUT), str(tmp_path / "clone")], check=True)
    (tmp_path / "clone" / "Makefile").write_text((CHECKOUT / "Makefile").read_text())
    git("config", "user.name", "a")
    git("config", "user.email", "a@b.c")
    made = subprocess.run(["make", "-C", str(tmp_path / "clone"), "release-branch"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "1 commit" in made.stdout
    assert git("rev-list", "--count", "release") == "1"
    assert git("rev-parse", "release^{tree}") == git("rev-parse", "HEAD^{tree}")
    sizes = [int(line.split()[3]) for line in git("ls-tree", "-r", "-l", "release").splitlines()]
    assert sum(sizes) < 30_000_000
