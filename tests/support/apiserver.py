"""An etcd and a kube-apiserver of their own: the real API without nodes or controllers."""

import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

import kubeprograms
from kubecluster.waiting import until

ADMIN: Final = "admin"
START_SECONDS: Final = 60


class ApiServer:
    """A running API server.

    Args:
        folder: takes data, logs and certificates.
        users: name of each further user with its groups, for kubeconfigs by `kubeconfig`.
    """

    def __init__(self, folder: Path, users: Mapping[str, Sequence[str]]) -> None:
        self.folder = folder
        self.users = {ADMIN: ("system:masters",), **users}
        self.port, etcd_port, peer_port = free_ports(3)
        self._etcd_ports = (etcd_port, peer_port)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts both; returns when the API is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_credentials()
        self._start_etcd()
        self.start_server()

    def start_server(self) -> None:
        """Starts the API server alone, on the data that there is."""
        certificates = self.folder / "certificates"
        key = self.folder / "accounts.key"
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_ports[0]}",
            "bind-address": "127.0.0.1",
            "advertise-address": "10.0.0.1",
            "secure-port": self.port,
            "cert-dir": certificates,
            "token-auth-file": self.folder / "tokens.csv",
            "authorization-mode": "RBAC",
            "service-cluster-ip-range": "10.0.0.0/24",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            # No controller makes the accounts that this plugin would look for.
            "disable-admission-plugins": "ServiceAccount",
            "endpoint-reconciler-type": "none",
            "watch-cache": "true",
        }
        self._spawn("kube-apiserver", [f"--{name}={value}" for name, value in flags.items()])
        self._await_ready()

    def stop_server(self) -> None:
        """Ends the API server alone."""
        self._end(self._processes.pop())

    def stop(self) -> None:
        """Ends both."""
        while self._processes:
            self._end(self._processes.pop())

    def kubeconfig(self, user: str = ADMIN) -> Path:
        """A kubeconfig for one of the users."""
        path = self.folder / f"{user}.conf"
        cluster = {"server": self.url, "certificate-authority": str(self._certificate())}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    @staticmethod
    def token(user: str) -> str:
        return f"token-of-{user}"

    def context(self) -> ssl.SSLContext:
        """What a client checks the server's certificate with."""
        return ssl.create_default_context(cafile=self._certificate())

    def _certificate(self) -> Path:
        return self.folder / "certificates" / "apiserver.crt"

    def _write_credentials(self) -> None:
        lines = []
        for user, groups in self.users.items():
            quoted = f',"{",".join(groups)}"' if groups else ""
            lines.append(f"{self.token(user)},{user},{user}{quoted}\n")
        (self.folder / "tokens.csv").write_text("".join(lines))
        subprocess.run(
            ["openssl", "genrsa", "-out", str(self.folder / "accounts.key"), "2048"],
            check=True,
            capture_output=True,
        )

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        flags = [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]
        self._spawn("etcd", flags)

    def _spawn(self, name: str, flags: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [kubeprograms.find(name), *flags],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    env={**os.environ, "GOMAXPROCS": "2"},
                )
            )

    def _await_ready(self) -> None:
        def is_ready() -> bool:
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{process.args[0]} has ended; see the logs in {self.folder}"
                    )
            return self._is_ready()

        until(is_ready, START_SECONDS, lambda: f"see the logs in {self.folder}")

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, context=self.context(), timeout=5
            )
            try:
                headers = {"Authorization": f"Bearer {self.token(ADMIN)}"}
                connection.request("GET", "/readyz", headers=headers)
                return connection.getresponse().status == 200
            finally:
                connection.close()
        return False

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def api_server(folder: Path, users: Mapping[str, Sequence[str]]) -> Iterator[ApiServer]:
    """An API server that ends with the block."""
    server = ApiServer(folder, users)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
