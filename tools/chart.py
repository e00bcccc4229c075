"""Renders the Helm chart of deploy/helm by Helm's own engine, and checks the result.

    chart.py write     brings everything that is derived up to date: the chart's copies of other files of deploy, the
                       configuration in its schema, and deploy/helm/rendered
    chart.py show      prints the same as JSON instead, with the documents, and what Helm's and Kubernetes' schemas say
    chart.py refusal [RELEASE]
                       reads values as YAML from standard input, and prints why the chart refuses them, or what the
                       schemas of Kubernetes say against the result; nothing if all is well
    chart.py render [RELEASE]
                       reads values in the same way, and prints the documents that they make as JSON

`make foreign-tools` installs what it needs. `make chart` runs `write`.
"""

import json
import re
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

# The names that operators choose in the configuration.
CHOSEN = "^[A-Za-z0-9_-]{1,64}$"

# What the schemas do not say: the name of a resource (a Service has the narrowest rule), and the value of a label.
NAME = re.compile("[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile("([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


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
    """The schema of a section. A section without keys has names that operators choose."""
    if not section:
        values = {"type": ["string", "integer"]}
        return {"type": "object", "propertyNames": {"pattern": CHOSEN}, "additionalProperties": values}
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


def render(values, release="tickwire"):
    """What `helm template tickwire deploy/helm/tickwire --namespace tickwire` prints with these values, by template."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        return chart.render(values, name=release, namespace="tickwire")


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
    return documents_of(text(render(values)))


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a map. Of these readers of YAML take one or the other, or none."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (place, _) in zip(keys, node.value):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", place.start_mark)
        return super().construct_mapping(node, deep)


def documents_of(whole):
    """The documents in a text of YAML."""
    return [document for document in yaml.load_all(whole, StrictLoader) if document]


def invalid(documents):
    """What Kubernetes would say against these documents: by its schemas, and of names, labels and lists."""
    found = []
    for document in documents:
        name = document["metadata"]["name"]
        problems = [] if NAME.fullmatch(name) else ["the name is not valid"]
        problems += unschematic(document)
        if not document["apiVersion"].startswith(OPERATOR):
            try:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
            except Exception as error:
                problems.append(error)
        found += [f"{document['kind']} {name}: {problem}" for problem in problems]
    return found


def unschematic(part):
    """Labels that are not valid, and names that stand twice in a list, such as those of variables and ports."""
    if isinstance(part, list):
        names = [item["name"] for item in part if isinstance(item, dict) and "name" in item]
        twice = sorted({name for name in names if names.count(name) > 1})
        return [f"{name} stands twice" for name in twice] + [problem for item in part for problem in unschematic(item)]
    if not isinstance(part, dict):
        return []
    found = []
    for key, value in part.items():
        if key in ("labels", "matchLabels") and isinstance(value, dict):
            found += [f"the label {of}: {text!r} is not valid" for of, text in value.items() if not is_label(text)]
        found += unschematic(value)
    return found


def is_label(value):
    return isinstance(value, str) and LABEL.fullmatch(value) is not None


def show():
    files = copies() | schema()
    documents, notes, problems = {}, {}, []
    for name, values in variants().items():
        rendered = render(values)
        whole = text(rendered)
        files[HELM / f"rendered/{name}.yaml"] = whole
        notes[name] = rendered["tickwire/templates/NOTES.txt"]
        documents[name] = documents_of(whole)
        lint = helm.chart.lint(CHART, values, strict=True, namespace="tickwire")
        # "icon is recommended" is information.
        problems += [f"{name}: {message}" for message in lint["messages"] if message["severity"] > 1]
        problems += [f"{name}: {problem}" for problem in invalid(documents[name])]
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


def refusal(values, release="tickwire"):
    try:
        rendered = render(values, release)
        problems = invalid(documents_of(text(rendered)))
    except (helm.HelmError, yaml.YAMLError) as error:
        print(error)
    else:
        print(*problems, sep="\n", end="")


match sys.argv[1:]:
    case ["write"]:
        write(copies())
        write(schema())
        write({HELM / f"rendered/{name}.yaml": text(render(values)) for name, values in variants().items()})
    case ["show"]:
        show()
    case ["refusal", *release]:
        refusal(helm.chart.values_from_yaml(sys.stdin.read()), *release)
    case ["render", *release]:
        print(json.dumps(documents_of(text(render(helm.chart.values_from_yaml(sys.stdin.read()), *release)))))
    case _:
        sys.exit(__doc__)
