"""Checks what promtool does not: the metric names in alerts.yaml and dashboard.json, the labels and annotations of the
alerts, and the layout of the dashboard.

It uses only the standard library, so that it runs on any machine, and therefore parses only the subset of YAML that
alerts.yaml uses.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
RUNBOOK = HERE.parent.parent / "docs" / "operations.md"
KEYWORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}
DASHBOARD_WIDTH = 24
problems = []


def metric_names(expression):
    """Returns the metric names in a PromQL expression: the words that are left without strings, selectors, ranges, label
    lists, functions and numbers."""
    rest = re.sub(r'"[^"]*"', "", expression)
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", rest)
    rest = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", rest)
    rest = re.sub(r"\boffset\s+\w+", " ", rest)
    words = re.finditer(r"(?<![\w:.])[A-Za-z_:][\w:]*(?!\s*\(|[\w:])", rest)
    return {word.group() for word in words} - KEYWORDS


def parse_rules(text):
    """Returns each rule as a dict of its keys and values. The lines of a block scalar are joined."""
    rules, block, block_indent = [], None, 0
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if block and indent > block_indent:
            rules[-1][block] = f"{rules[-1][block]} {line.strip()}".strip()
            continue
        block = None
        match = re.match(r"\s*(- )?(\w+):\s*(.*)", line)
        if not match:
            sys.exit(f"alerts.yaml: check.py cannot parse this line: {line}")
        dash, key, value = match.groups()
        if dash and key in ("alert", "record"):
            rules.append({})
        if not rules:
            continue
        if value in ("|", ">-"):
            block, block_indent, value = key, indent, ""
        rules[-1][key] = value
    return rules


def check_rules(rules, known, tests, runbook):
    for rule in rules:
        name = rule.get("alert") or rule["record"]
        for metric in sorted(metric_names(rule["expr"]) - known):
            problems.append(f"alerts.yaml: {name} uses {metric}, which is neither in metrics.txt nor recorded")
        if "alert" not in rule:
            continue
        if rule.get("severity") not in ("page", "ticket"):
            problems.append(f"alerts.yaml: the severity of {name} must be page or ticket")
        for annotation in ("summary", "description"):
            if not rule.get(annotation):
                problems.append(f"alerts.yaml: {name} has no {annotation}")
        if not re.fullmatch(rf"https://[^/]+/(.*/)?docs/operations\.md#{name.lower()}", rule.get("runbook_url", "")):
            problems.append(f"alerts.yaml: the runbook_url of {name} must be https://…/docs/operations.md#{name.lower()}")
        if f"### {name}\n" not in runbook:
            problems.append(f"docs/operations.md: {name} has no heading")
        if not re.search(rf'alertname="{name}"[^}}]*severity="{rule.get("severity")}"', tests):
            problems.append(f"alerts_test.yaml: no test fires {name} with severity {rule.get('severity')}")


def check_dashboard(dashboard, known):
    panels = dashboard["panels"]
    # `target_info` has the attributes of the process, and the panels show quantiles instead of sums.
    expected = {metric for metric in known if metric != "target_info" and not metric.endswith("_sum")}
    expressions = " ".join(target["expr"] for panel in panels for target in panel.get("targets", []))
    for metric in sorted(expected - metric_names(expressions)):
        problems.append(f"dashboard.json: no panel shows {metric}")
    ids = [panel["id"] for panel in panels]
    for duplicate in sorted({panel_id for panel_id in ids if ids.count(panel_id) > 1}):
        problems.append(f"dashboard.json: several panels have the id {duplicate}")
    occupied = {}
    for panel in panels:
        title = panel.get("title") or f"panel {panel['id']}"
        position = panel["gridPos"]
        if position["x"] + position["w"] > DASHBOARD_WIDTH:
            problems.append(f"dashboard.json: {title} extends beyond the width of the dashboard")
        overlapped = set()
        for x in range(position["x"], position["x"] + position["w"]):
            for y in range(position["y"], position["y"] + position["h"]):
                overlapped.add(occupied.setdefault((x, y), title))
        for other in sorted(overlapped - {title}):
            problems.append(f"dashboard.json: {title} overlaps {other}")
        if panel["type"] == "row":
            if panel.get("panels"):
                problems.append(f"dashboard.json: the row {title} must not be collapsed, or its panels are not checked")
            continue
        if not panel.get("title") or not panel.get("description", "").endswith("."):
            problems.append(f"dashboard.json: {title} needs a title and a description that ends with a period")
        if not panel["fieldConfig"]["defaults"].get("unit"):
            problems.append(f"dashboard.json: {title} has no unit")
        if not panel["targets"]:
            problems.append(f"dashboard.json: {title} has no query")
        for source in [panel, *panel["targets"]]:
            if source["datasource"]["uid"] != "${datasource}":
                problems.append(f"dashboard.json: {title} must use the data source ${{datasource}}")
        for target in panel["targets"]:
            for metric in sorted(metric_names(target["expr"]) - known):
                problems.append(f"dashboard.json: {title} uses {metric}, which is not in metrics.txt")
            check_syntax(title, target["expr"].replace("$__rate_interval", "5m"))


def check_syntax(title, expression):
    """Checks the syntax of an expression with promtool, which accepts rules only, so this wraps the expression in one."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump({"groups": [{"name": "dashboard", "rules": [{"record": "query", "expr": expression}]}]}, file)
        file.flush()
        result = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
    if result.returncode != 0:
        problems.append(f"dashboard.json: {title} has an invalid query: {result.stderr.strip()}")


lines = (HERE / "metrics.txt").read_text().splitlines()
exported = {line for line in lines if line and not line.startswith("#")}
rules = parse_rules((HERE / "alerts.yaml").read_text())
recorded = {rule["record"] for rule in rules if "record" in rule}
if not any("alert" in rule for rule in rules):
    sys.exit("alerts.yaml: no alert found")
check_rules(rules, exported | recorded, (HERE / "alerts_test.yaml").read_text(), RUNBOOK.read_text())
check_dashboard(json.loads((HERE / "dashboard.json").read_text()), exported)
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(1 if problems else 0)
