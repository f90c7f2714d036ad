import os
import subprocess
import sys
from pathlib import Path

from reknit.protocol.settings import ENV_BOARD
from reknit.rank.board import Board, BoardReader, Moment, Shown, read_board


def test_the_last_change_is_what_is_read(tmp_path):
    board = Board(tmp_path / "board", clock=lambda: 12.5)
    board.rank = 3
    board.enter(Moment.FORWARD, 6)
    board.enter(Moment.GATE, 7)
    expected = Shown(os.getpid(), 3, 7, Moment.GATE, 12.5)
    assert read_board(tmp_path / "board") == {os.getpid(): expected}
    board.close()


def test_a_process_without_a_place_has_no_rank(tmp_path):
    board = Board(tmp_path)
    assert read_board(tmp_path)[os.getpid()].rank == -1
    board.close()


def test_a_reader_follows_changes_and_newcomers(tmp_path):
    reader = BoardReader(tmp_path / "board")
    assert reader.read() == {}
    board = Board(tmp_path / "board")
    board.enter(Moment.DATA, 1)
    assert reader.read()[os.getpid()].moment is Moment.DATA
    board.enter(Moment.APPLY, 1)
    assert reader.read()[os.getpid()].moment is Moment.APPLY
    board.close()
    reader.close()


def test_a_file_that_is_just_being_created_is_passed_over(tmp_path):
    (tmp_path / "17").touch()
    assert read_board(tmp_path) == {}


def test_what_a_killed_process_showed_last_stays(tmp_path):
    program = """
import os, signal
from reknit.rank.board import Board, Moment
board = Board.from_environment()
board.rank = 2
board.enter(Moment.BACKWARD, 41)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, ENV_BOARD: str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    assert process.wait() == -9
    shown = read_board(tmp_path)[process.pid]
    assert (shown.rank, shown.step, shown.moment) == (2, 41, Moment.BACKWARD)


def test_an_earlier_process_of_the_same_id_is_forgotten(tmp_path):
    earlier = Board(tmp_path)
    earlier.rank = 1
    earlier.enter(Moment.GATHER, 8)
    board = Board(tmp_path)
    shown = read_board(tmp_path)[os.getpid()]
    assert (shown.rank, shown.step, shown.moment) == (-1, 0, Moment.IDLE)
    earlier.close()
    board.close()


def test_without_the_variable_nothing_is_shown(tmp_path, monkeypatch):
    monkeypatch.delenv(ENV_BOARD, raising=False)
    monkeypatch.chdir(tmp_path)
    board = Board.from_environment()
    board.enter(Moment.FORWARD, 1)
    board.close()
    assert list(Path.cwd().iterdir()) == []
