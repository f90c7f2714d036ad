"""Archives of images, as container runtimes import them."""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

PAUSE: Final = "localhost/pause:1"
"""The image of pod sandboxes: a program that does nothing until it is told to end."""
_SOURCE: Final = """
#include <signal.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
"""


def write_pause(archive: Path) -> None:
    """An archive with the sandbox image, made with the C compiler."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "pause")
        compiler = ["gcc", "-x", "c", "-", "-static", "-Os", "-o", str(program)]
        subprocess.run(compiler, input=_SOURCE.encode(), check=True)
        layer = _tar({"pause": program.read_bytes()})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
        "history": [{}],
    }
    text = json.dumps(config).encode()
    manifest = [{"Config": f"{_digest(text)}.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    files = {
        "layer.tar": layer,
        f"{_digest(text)}.json": text,
        "manifest.json": json.dumps(manifest).encode(),
    }
    archive.write_bytes(_tar(files))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
