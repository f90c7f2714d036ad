import zlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from reknit.checkpoint.files import NewFile, crc32_of, make_folder
from reknit.checkpoint.shards import DTYPE_CODES, Entry, write_tensors

same_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def entry(key, tensor, parts=1):
    return Entry(
        key, tuple(tensor.shape), tensor.dtype, lambda: tensor.flatten().tensor_split(parts)
    )


def random_tensor(shape, dtype):
    numbers = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(0))
    return numbers.to(dtype)


@same_folder
@given(
    tensors=st.dictionaries(
        st.text(min_size=1, max_size=5).filter(lambda key: key != "__metadata__"),
        st.tuples(
            st.lists(st.integers(0, 4), max_size=3).map(tuple),
            st.sampled_from(list(DTYPE_CODES)),
            st.integers(1, 3),
        ),
        max_size=5,
    )
)
def test_the_library_reads_what_is_written(tmp_path, tensors):
    expected = {key: random_tensor(shape, dtype) for key, (shape, dtype, _) in tensors.items()}
    path = tmp_path / "file.safetensors"
    with NewFile(path) as file:
        write_tensors(file, [entry(key, expected[key], tensors[key][2]) for key in tensors])
    read = load_file(path)
    assert read.keys() == expected.keys()
    for key, tensor in expected.items():
        assert read[key].dtype == tensor.dtype
        assert read[key].shape == tensor.shape
        assert bytes(read[key].reshape(-1).view(torch.uint8).tolist()) == bytes(
            tensor.reshape(-1).view(torch.uint8).tolist()
        )
    assert (file.size, file.crc32) == (path.stat().st_size, zlib.crc32(path.read_bytes()))


def test_the_file_says_that_it_is_of_torch(tmp_path):
    with NewFile(tmp_path / "f") as file:
        write_tensors(file, [])
    with safe_open(tmp_path / "f", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_tensors_are_aligned_to_their_items(tmp_path):
    tensors = {"odd": torch.zeros(3, dtype=torch.uint8), "long": torch.arange(4)}
    with NewFile(tmp_path / "f") as file:
        write_tensors(file, [entry(key, tensor) for key, tensor in tensors.items()])
    with safe_open(tmp_path / "f", framework="pt") as opened:
        assert opened.get_tensor("long").data_ptr() % 8 == 0


def test_long_tensors_are_written_in_parts_with_a_look_between(tmp_path):
    tensor = torch.arange(3 << 20)  # 24 MiB
    looks = []
    with NewFile(tmp_path / "f") as file:
        write_tensors(file, [entry("a", tensor)], between=lambda: looks.append(file.size))
    assert len(looks) == 6
    assert torch.equal(load_file(tmp_path / "f")["a"], tensor)


def test_parts_that_do_not_add_up_leave_no_file(tmp_path):
    wrong = Entry("a", (3,), torch.float32, lambda: [torch.zeros(2)])
    with (
        pytest.raises(ValueError, match="a has 8 bytes instead of 12"),
        NewFile(tmp_path / "f") as file,
    ):
        write_tensors(file, [wrong])
    assert list(tmp_path.iterdir()) == []


def test_number_formats_without_a_code_are_refused(tmp_path):
    tensor = torch.zeros(1, dtype=torch.complex128)
    with (
        pytest.raises(ValueError, match="complex128 cannot be stored"),
        NewFile(tmp_path / "f") as file,
    ):
        write_tensors(file, [entry("a", tensor)])


class TestFiles:
    def test_an_exclusive_file_replaces_nothing(self, tmp_path):
        path = tmp_path / "marker"
        path.write_text("first")
        with pytest.raises(FileExistsError), NewFile(path, exclusive=True):
            raise AssertionError("unreachable")
        assert path.read_text() == "first"

    def test_an_interrupted_file_is_gone(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), NewFile(tmp_path / "f") as file:
            file.write(b"half")
            raise KeyboardInterrupt
        assert list(tmp_path.iterdir()) == []

    def test_folders_are_made_with_those_above_them(self, tmp_path):
        make_folder(tmp_path / "a" / "b" / "c")
        make_folder(tmp_path / "a" / "b" / "c")
        assert (tmp_path / "a" / "b" / "c").is_dir()

    @pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 5])
    def test_checksums_are_of_the_whole_file(self, tmp_path, size):
        content = bytes(range(256)) * (size // 256) + bytes(size % 256)
        (tmp_path / "f").write_bytes(content)
        assert crc32_of(tmp_path / "f") == zlib.crc32(content)
