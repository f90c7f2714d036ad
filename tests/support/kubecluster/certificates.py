"""Certificates and kubeconfigs, signed by an authority of the cluster's own."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from kubecluster.layout import API_URL

DAYS = "30"


class Certificates:
    """The files of one folder, by the name of who shows them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def authority(self) -> Path:
        return self._folder / "authority.crt"

    @property
    def accounts(self) -> Path:
        """The key that signs the tokens of service accounts."""
        return self._folder / "accounts.key"

    def certificate(self, name: str) -> Path:
        return self._folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self._folder / f"{name}.key"

    def kubeconfig(self, name: str) -> Path:
        return self._folder / f"{name}.conf"

    def begin(self) -> None:
        """Makes the authority, and the key of service accounts."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS]
        files = ["-keyout", self.key("authority"), "-out", self.authority]
        _openssl(*request, *files, "-subj", "/CN=reknit-test")
        _openssl("genrsa", "-out", self.accounts, "2048")

    def issue(self, name: str, user: str, *, group: str = "", hosts: Sequence[str] = ()) -> None:
        """A certificate of `user`, for servers at `hosts` and for clients, with a kubeconfig.

        Args:
            name: of the files.
            user: as the API server knows it.
            group: of the user, if any.
            hosts: like `DNS:localhost` and `IP:127.0.0.1`.
        """
        subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
        request = self._folder / f"{name}.csr"
        extensions = self._folder / f"{name}.ext"
        names = ",".join(hosts or [f"DNS:{name}"])
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        new = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", subject]
        _openssl(*new, "-keyout", self.key(name), "-out", request)
        authority = ["-CA", self.authority, "-CAkey", self.key("authority"), "-CAcreateserial"]
        sign = ["x509", "-req", "-in", request, "-days", DAYS, "-extfile", extensions]
        _openssl(*sign, *authority, "-out", self.certificate(name))
        self._write_kubeconfig(name)

    def _write_kubeconfig(self, name: str) -> None:
        cluster = {"server": API_URL, "certificate-authority": str(self.authority)}
        user = {
            "client-certificate": str(self.certificate(name)),
            "client-key": str(self.key(name)),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "reknit", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "reknit", "context": {"cluster": "reknit", "user": name}}],
            "current-context": "reknit",
        }
        self.kubeconfig(name).write_text(yaml.safe_dump(config))


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
