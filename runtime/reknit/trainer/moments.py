"""What this rank is doing at the moment, shown on the board and told with its beats."""

from reknit.rank.board import Board, Moment
from reknit.trainer.link import Link


class Moments:
    """Counts what a rank begins within a step, which all ranks begin alike."""

    def __init__(self, board: Board, link: Link) -> None:
        self._board = board
        self._link = link
        self._num_begun = 0

    def take_place(self, rank: int) -> None:
        """This process has become another rank."""
        self._board.rank = rank

    def begin_step(self) -> None:
        """A step, or a step anew: the counting starts again."""
        self._num_begun = 0

    def enter(self, moment: Moment, step: int) -> None:
        """The rank, which holds version `step`, begins this."""
        self._num_begun += 1
        self._board.enter(moment, step)
        self._link.reach(self._num_begun)

    def show(self, moment: Moment, step: int) -> None:
        """The rank begins something at a time of its own, which does not tell how far it is."""
        self._board.enter(moment, step)


class NoMoments(Moments):
    """Nobody looks."""

    def __init__(self) -> None:
        """Without board and agent."""

    def begin_step(self) -> None:
        """Nothing is counted."""

    def enter(self, moment: Moment, step: int) -> None:
        """Nothing is shown."""

    def show(self, moment: Moment, step: int) -> None:
        """Nothing is shown."""
