"""Programs of a Kubernetes cluster: found in KUBEBUILDER_ASSETS, else built from Go modules;
Helm and kubectl also where they are installed.

`python kubeprograms.py NAME...` builds them ahead of a test run and prints where they are; `all`
names every one.
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
_MAJOR, _MINOR, _ = KUBERNETES.split(".")
_VERSION: Final = "k8s.io/component-base/version"
_KUBERNETES_MODULE: Final = "k8s.io/kubernetes"
_CONTAINERD_MODULE: Final = "github.com/containerd/containerd/v2"


@dataclass(frozen=True, slots=True)
class Program:
    """Where a program comes from, and the build tags it wants."""

    module: str
    version: str
    package: str
    tags: str = ""


def _kubernetes(name: str) -> Program:
    return Program(_KUBERNETES_MODULE, f"v{KUBERNETES}", f"{_KUBERNETES_MODULE}/cmd/{name}")


def _containerd(name: str) -> Program:
    # The file systems left out need libraries or kernels that few test machines have.
    tags = "no_btrfs,no_devmapper,no_zfs"
    return Program(_CONTAINERD_MODULE, "v2.2.1", f"{_CONTAINERD_MODULE}/cmd/{name}", tags)


PROGRAMS: Final = {
    "etcd": Program("go.etcd.io/etcd/server/v3", "v3.7.1", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubelet": _kubernetes("kubelet"),
    "kube-proxy": _kubernetes("kube-proxy"),
    "kubectl": _kubernetes("kubectl"),
    "containerd": _containerd("containerd"),
    "containerd-shim-runc-v2": _containerd("containerd-shim-runc-v2"),
    "ctr": _containerd("ctr"),
    "coredns": Program("github.com/coredns/coredns", "v1.14.0", "github.com/coredns/coredns"),
    "helm": Program("helm.sh/helm/v4", "v4.3.0", "helm.sh/helm/v4/cmd/helm"),
}
CLIENTS: Final = ("helm", "kubectl")
"""Programs of which an installed one of any version will do."""


def find(name: str) -> Path:
    """The program called `name`; built first if there is none, which takes minutes.

    Raises:
        FileNotFoundError: there is no Go toolchain to build it with.
        subprocess.CalledProcessError: the build failed.
    """
    assets = os.environ.get(ASSETS)
    if assets and (ready := Path(assets) / name).is_file():
        return ready
    if name in CLIENTS and (installed := shutil.which(name)):
        return Path(installed)
    program = PROGRAMS[name]
    target = CACHE / f"{name}-{program.version}"
    if not target.is_file():
        _build(program, target)
    return target


def folder_of(names: list[str], folder: Path) -> Path:
    """Links the programs by their plain names into `folder`, as programs that start each other
    look for them in PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(find(name))
    return folder


def _build(program: Program, target: Path) -> None:
    folder = _pinned(program.module)
    flags = (
        f"-s -w -X {_VERSION}.gitVersion=v{KUBERNETES} -X {_VERSION}.gitTreeState=clean"
        f" -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
    )
    # The final name appears when the program is whole.
    partial = target.with_name(f"{target.name}.partial")
    options = ["-trimpath", "-ldflags", flags, "-tags", program.tags, "-o", str(partial)]
    _go(folder, "build", *options, program.package)
    partial.rename(target)


def _pinned(module: str) -> Path:
    """A folder with a Go module that only names the versions of what is built from `module`."""
    programs = [program for program in PROGRAMS.values() if program.module == module]
    folder = CACHE / "modules" / f"{module.replace('/', '-')}-{programs[0].version}"
    ready = folder / "ready"
    if ready.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["module reknit.dev/tests", "", "go 1.26.0", ""]
    lines.append(f"require {module} {programs[0].version}")
    if module == _KUBERNETES_MODULE:
        lines += _staging(programs[0], folder)
    (folder / "go.mod").write_text("\n".join(lines) + "\n")
    imports = "\n".join(f'import _ "{program.package}"' for program in programs)
    (folder / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\n{imports}\n")
    _go(folder, "mod", "tidy", "-e")
    ready.touch()
    return folder


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
    parser.add_argument("names", nargs="+", choices=[*sorted(PROGRAMS), "all"], metavar="NAME")
    names = parser.parse_args().names
    for name in PROGRAMS if "all" in names else names:
        print(find(name), flush=True)


if __name__ == "__main__":
    main()
