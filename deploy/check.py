"""Checks the manifests of deploy/kubernetes and the chart of deploy/helm, without a cluster.

It validates every resource for all supported versions of Kubernetes, compares the chart with the manifests and with the
files that both depend on, and tries values that the chart must reject.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
KUSTOMIZE = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "turnkey"
TESTS = ROOT / "deploy" / "helm" / "tests"
OBSERVABILITY = ROOT / "deploy" / "observability"
# The oldest version is the first one in which every feature that the manifests use is stable.
KUBERNETES_VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
PLACEHOLDER_RUNBOOK = "https://turnkey.example.com/docs/operations.md"
HELM_LABELS = {
    "helm.sh/chart",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/instance",
}
# Where the chart differs from the manifests on purpose: a regular expression for the place, and the reason.
INTENDED = {
    r"Namespace/turnkey": "The chart is installed in an existing namespace.",
    r"[^.]+\.metadata\.namespace": "The base has no namespace; the overlays add it.",
    r".+\.containers\.\w+\.image": "The base has no registry and no tag; the overlays add them.",
    r"Job/turnkey-migrate\.metadata\.annotations": "In the chart, the migration is a hook.",
    r"Job/turnkey-migrate\.spec\.ttlSecondsAfterFinished": "The next hook replaces the Job.",
    r"Job/turnkey-migrate\..+\.serviceAccountName": "The hook runs before the chart's account exists.",
    r"(Cron)?Job/.+\.securityContext\.fsGroup": "All pods of the chart can have extra volumes.",
}
problems = []


def run(*command):
    return subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)


def output_of(*command):
    result = run(*command)
    if result.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)} failed: {result.stdout}{result.stderr}")
    return result.stdout


def resources_of(text):
    resources = [resource for resource in yaml.safe_load_all(text) if resource]
    return {f"{resource['kind']}/{resource['metadata']['name']}": resource for resource in resources}


def kustomize(directory):
    return resources_of(output_of("scripts/kustomize", KUSTOMIZE / directory))


def helm_template(package, *values):
    options = ["--namespace=turnkey", f"--kube-version={KUBERNETES_VERSIONS[-1]}"]
    options += [f"--values={file}" for file in values]
    return resources_of(output_of("scripts/helm", "template", "turnkey", package, *options))


def validate(source, resources, custom_resources):
    """Validates resources for all versions of Kubernetes, and custom resources with the schemas in the repository."""
    for name, resource in resources.items():
        kind = f"{resource['apiVersion']}/{resource['kind']}"
        if kind in custom_resources["kinds"]:
            schema = {"$ref": f"#/kinds/{kind.replace('/', '~1')}", **custom_resources}
            for error in jsonschema.Draft7Validator(schema).iter_errors(resource["spec"]):
                problems.append(f"{source}: {name}: {error.json_path}: {error.message}")
            continue
        for version in KUBERNETES_VERSIONS:
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                problems.append(f"{source}: {name}: {error.json_path}: {error.message} (Kubernetes {version})")
            except kubernetes_validate.SchemaNotFoundError as error:
                problems.append(f"{source}: {name}: {error.message}")
    if not resources:
        problems.append(f"{source}: no resource")
    print(f"{source}: {len(resources)} resources validated for Kubernetes {', '.join(KUBERNETES_VERSIONS)}")


def comparable(value):
    """Returns the value without Helm's labels. Lists of named things become objects, because their order differs."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in HELM_LABELS}
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {item["name"]: comparable(item) for item in value}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    return value


def differences(place, manifest, chart):
    """Yields the place of each difference, with both values."""
    if isinstance(manifest, dict) and isinstance(chart, dict):
        for key in sorted({*manifest, *chart}):
            yield from differences(f"{place}.{key}" if place else key, manifest.get(key), chart.get(key))
    elif manifest != chart:
        yield place, manifest, chart


def compare(directory, chart):
    """Checks that the chart has the resources of a kustomization, except for `INTENDED`. Returns what applied of it."""
    applied = set()
    for place, manifest, value in differences("", comparable(kustomize(directory)), comparable(chart)):
        reasons = {pattern for pattern in INTENDED if re.fullmatch(pattern, place)}
        if not reasons:
            where = f"deploy/kubernetes/{directory}"
            problems.append(f"{place} is {json.dumps(manifest)} in {where}, but {json.dumps(value)} in the chart")
        applied |= reasons
    return applied


def environments(resource):
    """Yields the list of environment variables of each container."""
    if isinstance(resource, dict):
        for key, value in resource.items():
            if key == "env":
                yield value
            else:
                yield from environments(value)
    elif isinstance(resource, list):
        for item in resource:
            yield from environments(item)


def check_environment(source, resources, values):
    """Checks that variables are defined once, and before others refer to them. Returns the names that the chart sets."""
    names = set()
    for variables in environments(list(resources.values())):
        defined = []
        for variable in variables:
            if variable["name"] in defined:
                problems.append(f"{source}: {variable['name']} is set twice")
            for reference in re.findall(r"\$\((\w+)\)", variable.get("value", "")):
                if reference not in defined:
                    problems.append(f"{source}: {variable['name']} refers to {reference}, which is not set before it")
            defined.append(variable["name"])
        names |= set(defined)
    return names - set(values.get("env", {}))


def check_names(names):
    """Checks that the names that templates set are those that `env` must not contain, and are documented."""
    names = names - {"DATABASE_URL", "POD_NAME"}
    schema = json.loads((CHART / "values.schema.json").read_text())
    reserved = set(schema["properties"]["env"]["propertyNames"]["not"]["enum"])
    for name in sorted(names ^ reserved):
        problems.append(f"values.schema.json: env must exclude exactly what the templates set: {name}")
    configuration = (ROOT / "docs" / "configuration.md").read_text()
    for name in sorted(name for name in names if f"`{name}`" not in configuration):
        problems.append(f"the chart sets {name}, which docs/configuration.md does not describe")


def check_versions():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    if not version == chart["version"] == chart["appVersion"]:
        problems.append(f"Chart.yaml: version and appVersion must be {version}, as in Cargo.toml")
    if f'org.opencontainers.image.version="{version}"' not in (ROOT / "Dockerfile").read_text():
        problems.append(f"Dockerfile: the label version must be {version}, as in Cargo.toml")


def check_observability(resources, values):
    """Checks that the chart contains the alert rules, with the address of the runbook, and the dashboard."""
    alerts = (OBSERVABILITY / "alerts.yaml").read_text()
    expected = yaml.safe_load(alerts.replace(PLACEHOLDER_RUNBOOK, values["prometheusRule"]["runbookUrl"]))
    rule = next(resource for resource in resources.values() if resource["kind"] == "PrometheusRule")
    if rule["spec"] != expected or "turnkey.example.com" in json.dumps(rule):
        problems.append("the PrometheusRule of the chart differs from deploy/observability/alerts.yaml")
    dashboard = next(resource for resource in resources.values() if resource["kind"] == "ConfigMap")
    if json.loads(dashboard["data"]["turnkey.json"]) != json.loads((OBSERVABILITY / "dashboard.json").read_text()):
        problems.append("the dashboard of the chart differs from deploy/observability/dashboard.json")


def check_refusals(package, folder):
    cases = yaml.safe_load((TESTS / "refused.yaml").read_text())
    file = Path(folder) / "values.yaml"
    for case in cases:
        file.write_text(yaml.safe_dump(case["values"]))
        options = [f"--kube-version={KUBERNETES_VERSIONS[-1]}", f"--values={file}"]
        result = run("scripts/helm", "template", "turnkey", package, *options)
        if result.returncode == 0 or case["error"] not in result.stderr:
            problems.append(f"the chart must reject {case['values']} because of {case['error']}: {result.stderr}")
    print(f"helm: {len(cases)} sets of values rejected")


def main(folder):
    custom_resources = yaml.safe_load((TESTS / "custom-resources.yaml").read_text())
    output_of("scripts/helm", "lint", "--strict", CHART)
    # The package is what users install. It contains files where the repository has symbolic links.
    output_of("scripts/helm", "package", f"--destination={folder}", CHART)
    package = next(Path(folder).glob("turnkey-*.tgz"))

    for overlay in ("development", "production"):
        validate(f"kustomize {overlay}", kustomize(f"overlays/{overlay}"), custom_resources)
    names = set()
    for file in [CHART / "values.yaml", CHART / "production-values.yaml", *sorted((TESTS / "values").iterdir())]:
        resources, values = helm_template(package, file), yaml.safe_load(file.read_text())
        validate(f"helm {file.name}", resources, custom_resources)
        names |= check_environment(f"helm {file.name}", resources, values)
        if values.get("prometheusRule", {}).get("enabled") is True:
            check_observability(resources, values)
    check_names(names)

    applied = compare("base", helm_template(package))
    applied |= compare("overlays/production", helm_template(package, CHART / "production-values.yaml"))
    for pattern in sorted(set(INTENDED) - applied):
        problems.append(f"deploy/check.py: INTENDED has {pattern}, but there is no such difference")
    check_versions()
    check_refusals(package, folder)


with tempfile.TemporaryDirectory() as temporary:
    main(temporary)
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(1 if problems else 0)
