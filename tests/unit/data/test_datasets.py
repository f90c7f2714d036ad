from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reknit.data import Arrays, ByteFiles, TokenFile
from reknit.errors import ConfigurationError

same_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def write(folder: Path, contents: list[bytes]) -> list[Path]:
    paths = [folder / f"{number:03d}.txt" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


class TestByteFiles:
    @same_folder
    @given(
        contents=st.lists(st.binary(max_size=20), min_size=1, max_size=8),
        window=st.integers(1, 25),
        stride=st.none() | st.integers(1, 30),
    )
    def test_windows_read_as_if_all_files_were_one(self, tmp_path, contents, window, stride):
        whole = b"".join(contents)
        paths = write(tmp_path, contents)
        if len(whole) < window:
            with pytest.raises(ConfigurationError, match="less than one window"):
                ByteFiles(paths, window, stride=stride)
            return
        dataset = ByteFiles(paths, window, stride=stride)
        starts = range(0, len(whole) - window + 1, stride or window)
        assert len(dataset) == len(starts)
        assert [bytes(dataset[i].tolist()) for i in range(len(dataset))] == [
            whole[start : start + window] for start in starts
        ]

    def test_samples_are_own_tensors_of_bytes(self, tmp_path):
        (path,) = write(tmp_path, [b"abcdef"])
        dataset = ByteFiles(path, 3)
        sample = dataset[0]
        sample[0] = 0
        assert sample.dtype == torch.uint8
        assert dataset[0].tolist() == list(b"abc")
        assert path.read_bytes() == b"abcdef"

    def test_iteration_ends(self, tmp_path):
        dataset = ByteFiles(write(tmp_path, [b"abcdefgh"]), 3)
        assert len([dataset[index] for index in range(len(dataset))]) == 2
        with pytest.raises(IndexError):
            dataset[2]

    def test_folders_and_patterns_stand_for_their_files_in_order(self, tmp_path):
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "2.txt").write_bytes(b"22")
        (tmp_path / "a.txt").write_bytes(b"11")
        (tmp_path / "c.py").write_bytes(b"33")

        def content(paths):
            dataset = ByteFiles(paths, 1)
            return b"".join(bytes(dataset[i].tolist()) for i in range(len(dataset)))

        assert content(tmp_path) == content(str(tmp_path)) == b"112233"
        assert content(tmp_path / "**" / "*.txt") == b"1122"
        assert content([tmp_path / "c.py", tmp_path / "a.txt"]) == b"3311"

    def test_many_files_stay_within_the_open_files_limit(self, tmp_path):
        write(tmp_path, [bytes([number % 256]) * 3 for number in range(300)])
        dataset = ByteFiles(tmp_path, 3)
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert [dataset[i][0].item() for i in range(300)] == [i % 256 for i in range(300)]
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64

    def test_a_large_file_is_not_read_as_a_whole(self, tmp_path):
        path = tmp_path / "sparse.bin"
        with path.open("wb") as file:
            file.truncate(1 << 40)
            file.seek((1 << 40) - 4)
            file.write(b"tail")
        dataset = ByteFiles(path, 4)
        assert len(dataset) == 1 << 38
        assert bytes(dataset[len(dataset) - 1].tolist()) == b"tail"

    @pytest.mark.parametrize(
        ("paths", "sentence"),
        [
            ("missing.txt", "there are no files at .*missing.txt"),
            ("*.none", "there are no files at"),
            ([], "the data has 0 bytes, less than one window of 4"),
        ],
    )
    def test_what_is_not_there_is_refused(self, tmp_path, monkeypatch, paths, sentence):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigurationError, match=sentence):
            ByteFiles(paths, 4)

    def test_an_unreadable_file_is_refused(self, tmp_path, monkeypatch):
        (path,) = write(tmp_path, [b"secret"])

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)  # root may read everything
        with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
            ByteFiles(path, 4)

    @pytest.mark.parametrize(("window", "stride"), [(0, None), (-1, None), (2, 0)])
    def test_empty_windows_are_refused(self, tmp_path, window, stride):
        with pytest.raises(ConfigurationError, match="at least 1"):
            ByteFiles(write(tmp_path, [b"abc"]), window, stride=stride)


class TestTokenFile:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "int64"])
    def test_tokens_come_as_int64(self, tmp_path, dtype):
        tokens = np.arange(0, 100, 7, dtype=dtype)
        path = tmp_path / "tokens.bin"
        tokens.tofile(path)
        dataset = TokenFile(path, dtype, 4)
        assert len(dataset) == 3
        assert dataset[1].dtype == torch.int64
        assert dataset[1].tolist() == [28, 35, 42, 49]

    def test_windows_may_overlap_by_the_target(self, tmp_path):
        np.arange(9, dtype="uint16").tofile(tmp_path / "t")
        dataset = TokenFile(tmp_path / "t", "uint16", 5, stride=4)
        assert [sample.tolist() for sample in map(dataset.__getitem__, range(2))] == [
            [0, 1, 2, 3, 4],
            [4, 5, 6, 7, 8],
        ]

    @pytest.mark.parametrize(
        ("content", "dtype", "sentence"),
        [
            (b"abc", "uint16", "3 bytes, which is no whole number of 2-byte tokens"),
            (b"abcd", "float16", "tokens are integers, not float16"),
            (b"abcd", "uint12", "no number format 'uint12'"),
            (b"abcd", "uint16", "the data has 2 tokens, less than one window of 4"),
            (None, "uint16", "cannot be read: No such file"),
        ],
    )
    def test_wrong_files_are_refused(self, tmp_path, content, dtype, sentence):
        path = tmp_path / "t"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=sentence):
            TokenFile(path, dtype, 4)


class TestArrays:
    def test_samples_are_tuples_of_tensors(self):
        frozen = np.arange(6.0).reshape(3, 2)
        frozen.flags.writeable = False
        dataset = Arrays(torch.arange(3), frozen, [7, 8, 9])
        number, row, label = dataset[1]
        assert len(dataset) == 3
        assert (number.item(), row.tolist(), label.item()) == (1, [2.0, 3.0], 8)
        assert (row.dtype, label.dtype) == (torch.float64, torch.int64)

    def test_memory_mapped_arrays_stay_mapped(self, tmp_path):
        path = tmp_path / "a.npy"
        np.save(path, np.arange(10, dtype=np.float32))
        (value,) = Arrays(np.load(path, mmap_mode="r"))[4]
        assert value.item() == 4.0

    @pytest.mark.parametrize(
        ("arrays", "sentence"),
        [
            ([], "at least one dimension"),
            ([torch.tensor(3)], "at least one dimension"),
            ([torch.zeros(2), np.zeros(3)], "not equally long: 2 and 3"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, arrays, sentence):
        with pytest.raises(ConfigurationError, match=sentence):
            Arrays(*arrays)
