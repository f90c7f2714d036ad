"""etcd, API server, controller manager and scheduler."""

import http.client
import ssl
from pathlib import Path
from typing import Final

from kubecluster.certificates import Certificates
from kubecluster.daemons import Daemons
from kubecluster.layout import (
    API_PORT,
    API_SERVICE,
    ETCD_PEER_URL,
    ETCD_URL,
    GATEWAY,
    SERVICE_NETWORK,
)
from kubecluster.waiting import until

API_SERVER: Final = "kube-apiserver"
CONTROLLERS: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"
ETCD: Final = "etcd"


class ControlPlane:
    """What a cluster has once.

    Args:
        folder: takes the data.
        certificates: those of the cluster.
        daemons: what starts the programs.
    """

    def __init__(self, folder: Path, certificates: Certificates, daemons: Daemons) -> None:
        self._folder = folder
        self._certificates = certificates
        self._daemons = daemons

    def start(self) -> None:
        """Starts all; returns when the API is ready."""
        names = [f"IP:{address}" for address in ("127.0.0.1", API_SERVICE, GATEWAY)]
        names += ["DNS:localhost", "DNS:kubernetes", "DNS:kubernetes.default"]
        names += ["DNS:kubernetes.default.svc"]
        issue = self._certificates.issue
        issue("apiserver", "kube-apiserver", hosts=names)
        issue("admin", "admin", group="system:masters")
        for user in (CONTROLLERS, SCHEDULER):
            issue(user, f"system:{user}")
        self._start_etcd()
        self.start_server()
        self._start_controllers()
        flags = {
            "kubeconfig": self._certificates.kubeconfig(SCHEDULER),
            "leader-elect": "false",
            "bind-address": "127.0.0.1",
        }
        self._daemons.start(SCHEDULER, SCHEDULER, flags)

    def start_server(self) -> None:
        """Starts the API server on the data that there is; returns when it is ready."""
        of = self._certificates
        flags = {
            "etcd-servers": ETCD_URL,
            "secure-port": API_PORT,
            "advertise-address": GATEWAY,
            "service-cluster-ip-range": SERVICE_NETWORK,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "client-ca-file": of.authority,
            "tls-cert-file": of.certificate("apiserver"),
            "tls-private-key-file": of.key("apiserver"),
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": of.accounts,
            "service-account-signing-key-file": of.accounts,
            "kubelet-preferred-address-types": "InternalIP",
            "kubelet-client-certificate": of.certificate("admin"),
            "kubelet-client-key": of.key("admin"),
            "kubelet-certificate-authority": of.authority,
        }
        self._daemons.start(API_SERVER, API_SERVER, flags)
        until(self._is_ready, 60, lambda: self._daemons.log(API_SERVER))

    def stop_server(self) -> None:
        """Ends the API server alone."""
        self._daemons.end([API_SERVER])

    def _start_etcd(self) -> None:
        flags = {
            "data-dir": self._folder / "etcd",
            "listen-client-urls": ETCD_URL,
            "advertise-client-urls": ETCD_URL,
            "listen-peer-urls": ETCD_PEER_URL,
            "initial-advertise-peer-urls": ETCD_PEER_URL,
            "initial-cluster": f"default={ETCD_PEER_URL}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        }
        self._daemons.start(ETCD, ETCD, flags)

    def _start_controllers(self) -> None:
        flags = {
            "kubeconfig": self._certificates.kubeconfig(CONTROLLERS),
            "service-account-private-key-file": self._certificates.accounts,
            "root-ca-file": self._certificates.authority,
            "use-service-account-credentials": "true",
            "leader-elect": "false",
            "bind-address": "127.0.0.1",
            # A lost node is noticed in seconds, as kubelets of this cluster report that often.
            "node-monitor-period": "1s",
            "node-monitor-grace-period": "10s",
        }
        self._daemons.start(CONTROLLERS, CONTROLLERS, flags)

    def _is_ready(self) -> bool:
        context = ssl.create_default_context(cafile=self._certificates.authority)
        context.load_cert_chain(
            self._certificates.certificate("admin"), self._certificates.key("admin")
        )
        connection = http.client.HTTPSConnection("127.0.0.1", API_PORT, context=context, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
