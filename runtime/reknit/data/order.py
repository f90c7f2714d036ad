"""The data order: position -> sample, a pure function of seed and epoch.

An epoch's order is a pseudo-random permutation that is computed for the positions asked for and
never stored: a Feistel network on the grid Z_a x Z_b with a * b >= num_samples (Black and Rogaway,
"Ciphers with Arbitrary Finite Domains", 2002, their generalised Feistel construction), and cycle
walking for the few grid cells that are no sample. Since a and b are about the square root of
num_samples, fewer than one cell in sqrt(num_samples) is walked.
"""

from math import isqrt

import numpy as np
import numpy.typing as npt

from reknit.data.seeds import derive_seed

_NUM_ROUNDS = 8
_MAX_SAMPLES = 1 << 62  # one grid row more still fits an unsigned 64-bit integer

_Words = npt.NDArray[np.uint64]


class DataOrder:
    """The endless order of a data set's samples: epoch after epoch, each sample once per epoch.

    Args:
        num_samples: length of the data set.
        seed: the job's seed; another seed is another order.
        shuffle: False takes the samples of every epoch in their own order.

    Raises:
        ValueError: `num_samples` is not within 1 and 2**62.
    """

    def __init__(self, num_samples: int, seed: int, shuffle: bool = True) -> None:
        if not 1 <= num_samples <= _MAX_SAMPLES:
            raise ValueError(f"a data order needs between 1 and 2**62 samples, not {num_samples}")
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
        self._rows = isqrt(num_samples - 1) + 1
        self._columns = -(-num_samples // self._rows)

    def sample(self, position: int) -> int:
        """The index of the sample at `position` = epoch * num_samples + place in the epoch."""
        return self.samples(range(position, position + 1))[0]

    def samples(self, positions: range) -> list[int]:
        """The indices of the samples at consecutive `positions`, which may span epochs.

        Raises:
            ValueError: the range has another step than 1, or begins below 0.
        """
        if positions.step != 1 or positions.start < 0:
            raise ValueError(f"positions are consecutive and not negative, unlike {positions}")
        indices: list[int] = []
        start = positions.start
        while start < positions.stop:
            epoch, place = divmod(start, self.num_samples)
            count = min(positions.stop - start, self.num_samples - place)
            if self.shuffle:
                places = np.arange(place, place + count, dtype=np.uint64)
                indices += self._permute(places, epoch).tolist()
            else:
                indices += range(place, place + count)
            start += count
        return indices

    def _permute(self, places: _Words, epoch: int) -> _Words:
        """The samples at `places` of `epoch`; changes `places`."""
        keys = [
            np.uint64(derive_seed("order", self.seed, epoch, number))
            for number in range(_NUM_ROUNDS)
        ]
        cells = self._encipher(places, keys)
        # Walking on from a cell that is no sample ends at one, as it runs along a cycle of the
        # grid's permutation that came from a sample.
        outside = np.flatnonzero(cells >= self.num_samples)
        while outside.size:
            cells[outside] = self._encipher(cells[outside], keys)
            outside = outside[cells[outside] >= self.num_samples]
        return cells

    def _encipher(self, cells: _Words, keys: list[np.uint64]) -> _Words:
        rows, columns = np.uint64(self._rows), np.uint64(self._columns)
        row, column = np.divmod(cells, columns)
        for number, key in enumerate(keys):
            # Adding a function of the other coordinate is undone by subtracting it: each round,
            # and so all of them together, is a bijection of the grid.
            if number % 2:
                column = (column + _mix(row ^ key) % columns) % columns
            else:
                row = (row + _mix(column ^ key) % rows) % rows
        return row * columns + column


def _mix(words: _Words) -> _Words:
    """The finalizer of SplitMix64 (Steele, Lea, Flood, 2014); arithmetic is modulo 2**64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
