"""Programs of a Kubernetes control plane: found in KUBEBUILDER_ASSETS, else built from Go modules;
Helm also where it is installed.

`python kubeprograms.py NAME...` builds them ahead of a test run and prints where they are.
"""

import argparse
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ASSETS: Final = "KUBEBUILDER_ASSETS"
"""Folder with ready programs; the name that the tools of controller-runtime use too."""
CACHE: Final = Path(__file__).parents[2] / ".cache" / "kubernetes"

KUBERNETES: Final = "1.37.1"
_STAGING: Final = "v0." + KUBERNETES.partition(".")[2]
_VERSION: Final = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Program:
    """Where a program comes from."""

    module: str
    version: str
    package: str


PROGRAMS: Final = {
    "etcd": Program("go.etcd.io/etcd/server/v3", "v3.7.1", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": Program(
        "k8s.io/kubernetes", f"v{KUBERNETES}", "k8s.io/kubernetes/cmd/kube-apiserver"
    ),
    "helm": Program("helm.sh/helm/v4", "v4.3.0", "helm.sh/helm/v4/cmd/helm"),
}


def find(name: str) -> Path:
    """The program called `name`; built first if there is none, which takes minutes.

    Raises:
        FileNotFoundError: there is no Go toolchain to build it with.
        subprocess.CalledProcessError: the build failed.
    """
    assets = os.environ.get(ASSETS)
    if assets and (ready := Path(assets) / name).is_file():
        return ready
    if name == "helm" and (installed := shutil.which(name)):
        return Path(installed)
    program = PROGRAMS[name]
    target = CACHE / f"{name}-{program.version}"
    if not target.is_file():
        _build(program, target)
    return target


def _build(program: Program, target: Path) -> None:
    folder = CACHE / "modules" / target.name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "module reknit.dev/tests",
        "",
        "go 1.26.0",
        "",
        f"require {program.module} {program.version}",
    ]
    if program.module == "k8s.io/kubernetes":
        lines += _staging(program, folder)
    (folder / "go.mod").write_text("\n".join(lines) + "\n")
    (folder / "tools.go").write_text(
        f'//go:build tools\n\npackage tools\n\nimport _ "{program.package}"\n'
    )
    _go(folder, "mod", "tidy", "-e")
    # The final name appears when the program is whole.
    partial = target.with_name(f"{target.name}.partial")
    flags = f"-s -w -X {_VERSION}.gitVersion=v{KUBERNETES}"
    _go(folder, "build", "-trimpath", "-ldflags", flags, "-o", str(partial), program.package)
    partial.rename(target)


def _staging(program: Program, folder: Path) -> list[str]:
    """Points the modules that Kubernetes keeps as folders of its own tree at published ones."""
    (folder / "go.mod").write_text("module reknit.dev/tests\n\ngo 1.26.0\n")
    found = _go(folder, "mod", "download", "-json", f"{program.module}@{program.version}")
    text = Path(json.loads(found)["GoMod"]).read_text()
    staged = [line.split() for line in text.splitlines() if "=> ./staging" in line]
    names = [words[1] if words[0] == "replace" else words[0] for words in staged]
    return [f"replace {name} => {name} {_STAGING}" for name in names]


def _go(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(
        ["go", *arguments],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def main() -> None:
    """Finds or builds the programs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(PROGRAMS), metavar="NAME")
    for name in parser.parse_args().names:
        print(find(name))


if __name__ == "__main__":
    main()
