"""The project's images, built by buildah or Docker from its own Dockerfiles, without a registry."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import kubeprograms

ROOT: Final = Path(__file__).parents[3]
CACHE: Final = kubeprograms.CACHE / "images"
OPERATOR: Final = "localhost/reknit/operator:e2e"
RUNTIME: Final = "localhost/reknit/runtime:e2e"
"""Without torch: pods mount the environment of these tests, see `mounts`."""
_BASE: Final = "localhost/reknit/base:e2e"
_PACKAGES: Final = "python3,python3-venv,ca-certificates"
_SOURCES: Final = ("pyproject.toml", "README.md", "LICENSE", "operator", "runtime", "examples")


@dataclass(frozen=True, slots=True)
class Image:
    """What an image is built from.

    Attributes:
        name: with its tag.
        dockerfile: below the root of the repository.
        inputs: files and folders that go into it.
        arguments: of the build.
    """

    name: str
    dockerfile: str
    inputs: Sequence[str]
    arguments: Mapping[str, str]

    def digest(self) -> str:
        """Changes with all that the image is made from."""
        digest = hashlib.sha256(repr(sorted(self.arguments.items())).encode())
        for name in (self.dockerfile, *self.inputs):
            path = ROOT / name
            for file in sorted(path.rglob("*.*")) if path.is_dir() else [path]:
                if file.is_file() and "__pycache__" not in file.parts:
                    digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
        return digest.hexdigest()[:16]


def mounts() -> list[Path]:
    """The folders that make this Python with torch, to be mounted read-only under their own
    names."""
    return [Path(sys.prefix), Path(sys.base_prefix)]


def images() -> list[Image]:
    """Operator and runtime."""
    prefixes = [str(path) for path in mounts()]
    return [
        Image(OPERATOR, "images/operator.Dockerfile", ("requirements/operator.txt", *_SOURCES), {}),
        Image(
            RUNTIME,
            "tests/e2e/runtime.Dockerfile",
            _SOURCES,
            {"ENVIRONMENT": prefixes[0], "PYTHON": prefixes[1]},
        ),
    ]


def archives() -> list[Path]:
    """Both images as archives, built by buildah where they are not fresh. Takes minutes at first.

    The base is a small Debian, as no registry may be at hand.
    """
    found = []
    for image in images():
        archive = CACHE / f"{image.name.rpartition('/')[2].replace(':', '-')}-{image.digest()}.tar"
        if not archive.exists():
            _build(image, archive)
        found.append(archive)
    return found


def build_with_docker(base: str) -> None:
    """Both images in Docker's own store."""
    for image in images():
        arguments = _build_arguments({**image.arguments, "BASE_IMAGE": base})
        file = ["--file", str(ROOT / image.dockerfile)]
        subprocess.run(
            ["docker", "build", *arguments, *file, "--tag", image.name, str(ROOT)], check=True
        )


def _build(image: Image, archive: Path) -> None:
    _make_base()
    arguments = _build_arguments({**image.arguments, "BASE_IMAGE": _BASE})
    for path in ("/etc/ssl/certs", "/etc/pip.conf"):
        # A proxy in front of the package index may have a certificate that only this machine knows.
        if Path(path).exists():
            arguments += ["--volume", f"{path}:{path}:ro"]
    _bud(image.name, ROOT / image.dockerfile, ROOT, *arguments)
    partial = archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    _buildah("push", image.name, f"docker-archive:{partial}:{image.name}")
    for old in CACHE.glob(f"{archive.name.rpartition('-')[0]}-*.tar"):
        old.unlink()
    partial.rename(archive)


def _make_base() -> None:
    known = _buildah("images", "--quiet", "--filter", f"reference={_BASE}")
    if known:
        return
    for program in ("debootstrap", "buildah"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"install {program}")
    tree, archive = CACHE / "base", CACHE / "base.tar"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    options = ["--variant=minbase", f"--include={_PACKAGES}"]
    subprocess.run(["debootstrap", *options, "bookworm", str(tree)], check=True)
    packed = ["--numeric-owner", "--exclude=./var/cache/apt/*", "--exclude=./dev/*"]
    subprocess.run(["tar", "-C", str(tree), *packed, "-cf", str(archive), "."], check=True)
    shutil.rmtree(tree)
    file = CACHE / "base.Dockerfile"
    file.write_text("FROM scratch\nADD base.tar /\n")
    _bud(_BASE, file, CACHE)
    archive.unlink()


def _build_arguments(arguments: Mapping[str, str]) -> list[str]:
    return [f"--build-arg={name}={value}" for name, value in arguments.items()]


def _bud(name: str, file: Path, folder: Path, *options: str) -> None:
    # Containers of its own would need more rights than a chroot does.
    options = ("--isolation", "chroot", *options)
    _buildah("bud", *options, "--tag", name, "--file", str(file), str(folder))


def _buildah(*arguments: str) -> str:
    store = ["--root", str(CACHE / "storage")]
    command = ["buildah", *store, "--runroot", str(CACHE / "running"), *arguments]
    # Its words are of interest when it fails, and then stand before the error.
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    return done.stdout
