"""YAML to plain values."""

import pytest

from reknit_operator.api.load import load_manifest
from reknit_operator.api.manifest import read_document
from reknit_operator.api.problems import ManifestError

SHORTEST = """\
apiVersion: reknit.dev/v1alpha1
kind: DistributedTrainingJob
metadata:
  name: gpt-bytes
spec:
  entrypoint:
    function: gpt_bytes:train
  batch: {global: 64, micro: 8}
  workers: {replicas: 4}
"""


def refusal(text):
    with pytest.raises(ManifestError) as caught:
        load_manifest(text)
    return str(caught.value)


def test_nine_lines_are_a_job():
    job = load_manifest(SHORTEST)

    assert job.metadata.name == "gpt-bytes"
    assert job.spec.workers.world_size == 4
    assert job.spec.batch is not None
    assert (job.spec.batch.global_batch, job.spec.batch.micro) == (64, 8)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("12", 12),
        ("-7", -7),
        ("0x1f", 31),
        ("0o17", 15),
        ("true", True),
        ("null", None),
        ("~", None),
        ("None", "None"),
        ("'3e-4'", "3e-4"),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("010", "010"),
        ("e5", "e5"),
        ("v1.2", "v1.2"),
    ],
)
def test_scalars_are_read_as_a_person_means_them(text, value):
    found = read_document(f"x: {text}\n")["x"]

    assert found == value
    assert type(found) is type(value)


def test_json_is_read_too():
    assert read_document('{"a": [1, 2.5, null, "b"]}') == {"a": [1, 2.5, None, "b"]}


def test_merge_keys_may_bring_in_a_key_again():
    text = "base: &base {a: 1, b: 2}\nx: {y: &z {<<: *base, b: 3}}\nother: {<<: *z, c: 4}\n"

    document = read_document(text)

    assert document["x"]["y"] == {"a": 1, "b": 3}
    assert document["other"] == {"a": 1, "b": 3, "c": 4}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "spec:\n\tbatch: 1\n",
            "line 2, column 1: the manifest is no YAML: a tab cannot indent, use spaces",
        ),
        (
            "a: 1\nb: 2\na: 3\n",
            "line 3, column 1: the manifest is no YAML: the key 'a' stands twice",
        ),
        (
            "a: {1: 2}\n",
            "line 1, column 5: the manifest is no YAML: the key 1 is not text, put it in quotes",
        ),
        (
            "a: {[b]: 2}\n",
            "line 1, column 5: the manifest is no YAML: the key of several values is not text",
        ),
        ("a: [1, 2\n", "line 2, column 1: the manifest is no YAML: expected ',' or ']'"),
        ("a: b: c\n", "line 1, column 5: the manifest is no YAML: mapping values are not allowed"),
        (
            "a: !!python/object:os.system {}\n",
            "line 1, column 4: the manifest is no YAML: could not determine a constructor",
        ),
        ("a: \x00\n", "the manifest is no YAML: "),
        ("", "the manifest is empty, it must be one job"),
        ("# only a comment\n", "the manifest is empty, it must be one job"),
        ("a: 1\n---\nb: 2\n", "the manifest holds 2 documents, it must be one job"),
        ("- a\n", "the manifest is no mapping of fields to values"),
        ("&a [*a]\n", "the manifest is no mapping of fields to values"),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_sentence(text, sentence):
    found = refusal(text)

    assert found.startswith(sentence)
    assert "\n" not in found


def test_trailing_document_marks_are_allowed():
    assert load_manifest(f"---\n{SHORTEST}---\n").metadata.name == "gpt-bytes"


def test_kind_and_version_must_be_written():
    assert refusal("spec: {}\n").splitlines() == [
        "apiVersion: this field is required, write reknit.dev/v1alpha1",
        "kind: this field is required, write DistributedTrainingJob",
    ]


def test_another_kind_is_refused():
    text = SHORTEST.replace("kind: DistributedTrainingJob", "kind: PyTorchJob")

    assert refusal(text) == 'kind: must be DistributedTrainingJob, not "PyTorchJob"'


def test_shape_is_checked_before_what_spans_fields():
    text = SHORTEST.replace("micro: 8", "micro: 7, macro: 1")

    assert refusal(text) == "spec.batch.macro: unknown field, did you mean micro?"


def test_what_spans_fields_is_checked():
    assert refusal(SHORTEST.replace("micro: 8", "micro: 7")) == (
        "spec.batch.micro: the global batch of 64 samples is no multiple of the micro-batch of 7, "
        "change one of them"
    )


def test_a_value_that_contains_itself_is_refused():
    text = SHORTEST + "  image: &a [*a]\n"

    assert "values that JSON does not know" in refusal(text)
