"""Renders the Helm chart of deploy/helm by Helm's own engine, and checks the result.

    chart.py write     brings everything that is derived up to date: the chart's copies of other files of deploy, the
                       configuration in its schema, and deploy/helm/rendered
    chart.py show      prints the same as JSON instead, with the documents, and what Helm's and Kubernetes' schemas say
    chart.py refusal   reads values as YAML from standard input, and prints why the chart refuses them, if it does

`make foreign-tools` installs what it needs. `make chart` runs `write`.
"""

import json
import sys
import tomllib
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
HELM = ROOT / "deploy/helm"
CHART = HELM / "tickwire"

# The Kubernetes whose schemas count. It may not know a field that a later one has.
KUBERNETES = "1.37"

# Whose documents have no schema in Kubernetes.
OPERATOR = "monitoring.coreos.com/"


def copies():
    """The files of the chart that are copies, with their texts."""
    found = {}
    for source, pattern, target in [
        ("deploy/prometheus", "alerts.yml", "files"),
        ("deploy/haproxy", "*.cfg", "files/haproxy"),
        ("deploy/haproxy", "*.lua", "files/haproxy"),
        ("deploy/grafana", "**/*.json", "files/dashboards"),
    ]:
        for file in sorted((ROOT / source).glob(pattern)):
            found[CHART / target / file.name] = file.read_text()
    return found


def schema():
    """The schema of the values, with the sections and keys of the configuration."""
    path = CHART / "values.schema.json"
    whole = json.loads(path.read_text())
    reference = tomllib.loads((ROOT / "node/config/reference.toml").read_text())
    config = {"type": "object", "additionalProperties": False, "properties": {}}
    for name, section in reference.items():
        config["properties"][name] = section_schema(section)
    whole["properties"]["config"] = config
    return {path: json.dumps(whole, indent=2) + "\n"}


def section_schema(section):
    """The schema of a section. A section without keys takes any: it has names that operators choose."""
    if not section:
        return {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
    properties = {key: value_schema(value) for key, value in section.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def value_schema(value):
    """The schema of a value, by its default."""
    if isinstance(value, dict):
        return section_schema(value)
    if isinstance(value, list):
        return {"type": "array", "items": {"type": "string"}}
    return {"type": {bool: "boolean", int: "integer", float: "number", str: "string"}[type(value)]}


def variants():
    """The values of each variant, by its name. The first one has what the chart needs, and defaults."""
    return {file.stem: helm.chart.values_from_yaml(file.read_text()) for file in sorted((HELM / "variants").glob("*.yaml"))}


def render(values):
    """What `helm template tickwire deploy/helm/tickwire --namespace tickwire` prints with these values, by template."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        return chart.render(values, name="tickwire", namespace="tickwire")


def text(rendered):
    """The rendered templates as one file."""
    parts = ["# Rendered by `make chart`.\n"]
    for path, part in sorted(rendered.items()):
        body = part.strip().removeprefix("---").strip()
        if path.endswith(".yaml") and body:
            parts.append(f"---\n# Source: {path}\n{body}\n")
    return "".join(parts)


def write(files):
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def dashboards():
    """The documents with the dashboards, which are too long to be checked in once more."""
    values = {"auth": {"secret": "tokens"}, "monitoring": {"dashboards": {"enabled": True}}}
    return [document for document in yaml.safe_load_all(text(render(values))) if document]


def show():
    files = copies() | schema()
    documents, notes, problems = {}, {}, []
    for name, values in variants().items():
        rendered = render(values)
        whole = text(rendered)
        files[HELM / f"rendered/{name}.yaml"] = whole
        notes[name] = rendered["tickwire/templates/NOTES.txt"]
        documents[name] = [document for document in yaml.safe_load_all(whole) if document]
        lint = helm.chart.lint(CHART, values, strict=True, namespace="tickwire")
        # "icon is recommended" is information.
        problems += [f"{name}: {message}" for message in lint["messages"] if message["severity"] > 1]
        for document in documents[name]:
            if document["apiVersion"].startswith(OPERATOR):
                continue
            try:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
            except Exception as error:
                problems.append(f"{name}: {document['kind']} {document['metadata']['name']}: {error}")
    documents["dashboards"] = dashboards()
    found = {
        "files": {str(path.relative_to(ROOT)): content for path, content in files.items()},
        "documents": documents,
        "notes": notes,
        "problems": problems,
        "alerts": yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text()),
        "adapter": yaml.safe_load((HELM / "prometheus-adapter-values.yaml").read_text()),
        "nats": yaml.safe_load((HELM / "nats-values.yaml").read_text()),
    }
    print(json.dumps(found))


def refusal(values):
    try:
        render(values)
    except helm.HelmError as error:
        print(error)


match sys.argv[1:]:
    case ["write"]:
        write(copies())
        write(schema())
        write({HELM / f"rendered/{name}.yaml": text(render(values)) for name, values in variants().items()})
    case ["show"]:
        show()
    case ["refusal"]:
        refusal(helm.chart.values_from_yaml(sys.stdin.read()))
    case _:
        sys.exit(__doc__)
