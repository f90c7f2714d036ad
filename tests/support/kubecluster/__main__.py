"""`python -m kubecluster up [NODES]` and `down`."""

import argparse

from kubecluster.cluster import Cluster


def main() -> None:
    parser = argparse.ArgumentParser(prog="kubecluster", description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("nodes", nargs="?", type=int, default=2)
    arguments = parser.parse_args()
    cluster = Cluster(arguments.nodes)
    if arguments.action == "down":
        cluster.down()
        return
    cluster.up()
    print(f"export KUBECONFIG={cluster.kubeconfig}")


if __name__ == "__main__":
    main()
