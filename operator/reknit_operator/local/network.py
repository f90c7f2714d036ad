"""Addresses for local pods: each session has a network of its own on the loopback interface."""

import random
import socket
from typing import Final

from reknit.errors import ConfigurationError

_FIRST: Final = 1
_LAST: Final = 254


class Network:
    """The addresses 127.N.*.*, held until `close`.

    N is drawn at random and held through a name that only one process can have. The coordinator's
    address is fixed, so its successor is found where it was; every other pod gets a new one.
    """

    def __init__(self) -> None:
        numbers = list(range(_FIRST, _LAST + 1))
        random.shuffle(numbers)
        for number in numbers:
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                holder.bind(f"\0reknit-network-{number}")
            except OSError:
                holder.close()
                continue
            self._holder = holder
            self._prefix = f"127.{number}"
            self._num_given = 0
            return
        raise ConfigurationError("too many jobs run on this machine; wait until one has finished")

    @property
    def coordinator(self) -> str:
        """The address of every coordinator."""
        return f"{self._prefix}.0.1"

    def take(self) -> str:
        """An address that no pod has had."""
        high, low = divmod(self._num_given, 254)
        self._num_given += 1
        return f"{self._prefix}.{high % 255 + 1}.{low + 1}"

    def close(self) -> None:
        """Gives the network back."""
        self._holder.close()
