"""What of the chart can be checked without Helm: values, dashboard, the copied definition."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from reknit_operator.api.crd import FILE_NAME, render
from reknit_operator.constants import DEFAULT_IMAGE, OPERATOR_IMAGE

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "reknit"
SOURCES = (
    ROOT / "runtime/reknit/coordinator/metrics.py",
    ROOT / "operator/reknit_operator/kube/metrics.py",
)
DERIVED = ("_total", "_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def values():
    return yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((CHART / "dashboards" / "reknit.json").read_text())


def test_the_definition_is_the_one_of_the_types():
    assert (CHART / "files" / FILE_NAME).read_text() == render()


def test_the_line_that_keeps_the_definition_fits_in_once():
    # The template puts the annotation behind this line.
    assert render().count("\nmetadata:\n") == 1


def test_values_keep_their_own_schema(values):
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": ["a"]},
        {"namespaces": "a"},
        {"namespaces": ["A_b"]},
        {"logLevel": "info"},
        {"image": {"digest": "abc"}},
        {"metrics": {"podMonitor": {"interval": 15}}},
        {"replicas": "1"},
    ],
)
def test_wrong_values_are_refused(values, wrong):
    schema = json.loads((CHART / "values.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({**values, **wrong})


def test_every_value_is_described_by_the_schema(values):
    schema = json.loads((CHART / "values.schema.json").read_text())

    def check(part, described):
        for name, value in part.items():
            assert name in described["properties"], name
            if isinstance(value, dict) and "properties" in described["properties"][name]:
                check(value, described["properties"][name])

    check(values, schema)


def test_every_value_is_used_by_a_template(values):
    text = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    for name in values:
        assert f".Values.{name}" in text, name


def test_the_chart_and_the_operator_mean_the_same_images(values):
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert f"{values['image']['repository']}:{version}" == OPERATOR_IMAGE
    assert f"{values['runtimeImage']['repository']}:{version}" == DEFAULT_IMAGE


def test_the_dashboard_shows_what_is_exported(dashboard):
    exported = {
        name for source in SOURCES for name in re.findall(r'"(reknit_[a-z_]+)"', source.read_text())
    }
    shown = set(re.findall(r"reknit_[a-z_]+", json.dumps(dashboard["panels"])))
    shown |= set(re.findall(r"reknit_[a-z_]+", json.dumps(dashboard["templating"])))
    unknown = {
        name
        for name in shown
        if name not in exported
        and not any(name.removesuffix(suffix) in exported for suffix in DERIVED)
    }
    assert unknown == set()
    assert len(shown) > 20


def test_the_dashboard_belongs_to_no_data_source(dashboard):
    assert (dashboard["id"], dashboard["uid"]) == (None, "reknit")
    assert "__inputs" not in dashboard
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    sources = [panel["datasource"]["uid"] for panel in panels]
    assert set(sources) == {"${datasource}"}
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    assert all("[5m]" not in target["expr"] for panel in panels for target in panel["targets"])
