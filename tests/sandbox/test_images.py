"""Images: made by the command, used by a service."""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.messages import File, RunRequest, Verdict

from .conftest import TOKEN, RunningSandbox


def _layer(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A tar archive of files that can be run, and links."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return content.getvalue()


def _write_oci_archive(path: Path, *layers: bytes) -> None:
    """As `skopeo copy ... oci-archive:path` does."""
    blobs: dict[str, bytes] = {}

    def add(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    described = [add(layer, "layer.v1.tar") for layer in layers]
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/tools:/bin", "GREETING=good day"]},
        "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in described]},
    }
    config = add(json.dumps(configuration).encode(), "config.v1+json")
    manifest = add(json.dumps({"schemaVersion": 2, "config": config, "layers": described}).encode(), "manifest.v1+json")
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    path.write_bytes(_layer(blobs))


def _shell() -> dict[str, bytes]:
    """This machine's sh with the libraries it needs."""
    needed = subprocess.run(["ldd", "/bin/sh"], check=True, capture_output=True, text=True).stdout
    paths = ["/bin/sh", *re.findall(r"(/\S+) \(0x", needed)]
    return {path.lstrip("/"): Path(path).read_bytes() for path in paths}


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tandem_sandbox.cli", *words], capture_output=True, text=True, check=False
    )


async def test_an_oci_archive_is_imported_listed_and_run(other_sandbox: RunningSandbox) -> None:
    home = ("--home", str(other_sandbox.home))
    archive = other_sandbox.home / "archive.tar"
    first = _shell() | {"tools/greet": b'#!/bin/sh\necho "$GREETING, $1"\n', "data/old": b"1"}
    _write_oci_archive(archive, _layer(first), _layer({"data/.wh.old": b"", "data/new": b"2"}))
    done = _command(*home, "image", "import", "greeting", str(archive))
    assert done.returncode == 0, done.stderr
    assert "already" in _command(*home, "image", "import", "greeting", str(archive)).stderr
    assert _command(*home, "image", "import", "greeting", str(archive), "--replace").returncode == 0
    assert _command(*home, "image", "list").stdout.startswith("greeting\t")
    other_sandbox.start()
    async with SandboxClient(other_sandbox.url, TOKEN) as client:
        command = ("sh", "-c", "greet you; for f in /data/*; do echo $f; done")
        result = await client.run(RunRequest(command=command, image="greeting"))
        assert (result.verdict, result.stdout) == (Verdict.OK, "good day, you\n/data/new\n"), result
        result = await client.run(RunRequest(command=("python3", "-c", "print(1)"), image="host"))
        assert (result.verdict, result.stdout) == (Verdict.OK, "1\n"), result


async def test_links_of_a_hostile_image_lead_nowhere(other_sandbox: RunningSandbox) -> None:
    outside = other_sandbox.home / "outside"
    outside.mkdir()
    for number, links in enumerate(
        ({"work/x": str(outside)}, {"work": str(outside)}, {".tandem": str(outside)}, {"tmp": str(outside)})
    ):
        archive = other_sandbox.home / "archive.tar"
        _write_oci_archive(archive, _layer(_shell(), links))
        name = f"hostile{number}"
        done = _command("--home", str(other_sandbox.home), "image", "import", name, str(archive))
        assert done.returncode == 0, done.stderr
    other_sandbox.start()
    async with SandboxClient(other_sandbox.url, TOKEN) as client:
        for number in range(4):
            files = {"x/evil": File(text="evil")}
            command = ("sh", "-c", "cat x/evil; echo evil > /tmp/evil; echo evil > x/more")
            request = RunRequest(command=command, image=f"hostile{number}", files=files, outputs=("x/more",))
            result = await client.run(request)
            assert result.left_out in ((), ("x/more",))
    assert list(outside.iterdir()) == []


def test_what_is_no_image_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    _write_oci_archive(tmp_path / "empty.tar", _layer({"etc/hostname": b"x"}))
    for archive, words in (("text", "no OCI archive"), ("empty.tar", "no /bin/sh")):
        done = _command("--home", str(tmp_path), "image", "import", "bad", str(tmp_path / archive))
        assert done.returncode == 1
        assert words in done.stderr
    assert "is no name" in _command("--home", str(tmp_path), "image", "import", "../x", str(tmp_path / "text")).stderr
    assert "no language brainfuck" in _command("image", "build", "x", "--languages", "brainfuck").stderr
    assert list((tmp_path / "images").iterdir()) == []
