"""A real Kubernetes cluster on one machine, made of plain processes: `python -m kubecluster up`.

etcd, API server, controller manager, scheduler, DNS and service proxy run once; every node is a
kubelet with a containerd of its own. It needs root, runc, the CNI plugins and iptables, and fixed
addresses, so only one runs at a time. Everything it starts or writes is gone after `down`.
"""
