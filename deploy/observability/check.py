"""Holds what promtool does not: names of metrics, labels and annotations of alerts, and the form of the dashboard.

It reads the few forms of YAML that alerts.yaml uses with the standard library alone, so that it runs on any machine.
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
COLUMNS = 24
problems = []


def metrics_in(expression):
    """What is left of an expression without strings, selectors, ranges, lists of labels, functions and numbers."""
    rest = re.sub(r'"[^"]*"', "", expression)
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", rest)
    rest = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", rest)
    rest = re.sub(r"\boffset\s+\w+", " ", rest)
    words = re.finditer(r"(?<![\w:.])[A-Za-z_:][\w:]*(?!\s*\(|[\w:])", rest)
    return {word.group() for word in words} - KEYWORDS


def rules_in(text):
    """Each rule as a dict of its keys; a block's lines are joined."""
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
            sys.exit(f"alerts.yaml has a line that this check cannot read: {line}")
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
        for metric in sorted(metrics_in(rule["expr"]) - known):
            problems.append(f"alerts.yaml: {name} uses {metric}, which does not exist")
        if "alert" not in rule:
            continue
        if rule.get("severity") not in ("page", "ticket"):
            problems.append(f"alerts.yaml: {name} has no severity of page or ticket")
        for annotation in ("summary", "description"):
            if not rule.get(annotation):
                problems.append(f"alerts.yaml: {name} has no {annotation}")
        if rule.get("runbook_url") != f"docs/operations.md#{name.lower()}":
            problems.append(f"alerts.yaml: the runbook_url of {name} is not docs/operations.md#{name.lower()}")
        if f"### {name}\n" not in runbook:
            problems.append(f"docs/operations.md: no heading for {name}")
        if not re.search(rf'alertname="{name}"[^}}]*severity="{rule.get("severity")}"', tests):
            problems.append(f"alerts_test.yaml: no test in which {name} fires with severity {rule.get('severity')}")


def check_dashboard(dashboard, known):
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    for twice in sorted({number for number in ids if ids.count(number) > 1}):
        problems.append(f"dashboard.json: the id {twice} is used twice")
    taken = {}
    for panel in panels:
        title = panel.get("title") or f"panel {panel['id']}"
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            problems.append(f"dashboard.json: {title} is wider than the dashboard")
        over = set()
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                over.add(taken.setdefault((x, y), title))
        for other in sorted(over - {title}):
            problems.append(f"dashboard.json: {title} lies over {other}")
        if panel["type"] == "row":
            if panel.get("panels"):
                problems.append(f"dashboard.json: the row {title} is collapsed, and its panels are not checked")
            continue
        if not panel.get("title") or not panel.get("description", "").endswith("."):
            problems.append(f"dashboard.json: {title} lacks a title or a sentence of description")
        if not panel["fieldConfig"]["defaults"].get("unit"):
            problems.append(f"dashboard.json: {title} has no unit")
        if not panel["targets"]:
            problems.append(f"dashboard.json: {title} asks nothing")
        for asked in [panel, *panel["targets"]]:
            if asked["datasource"]["uid"] != "${datasource}":
                problems.append(f"dashboard.json: {title} names a data source of its own")
        for target in panel["targets"]:
            for metric in sorted(metrics_in(target["expr"]) - known):
                problems.append(f"dashboard.json: {title} uses {metric}, which does not exist")
            check_syntax(title, target["expr"].replace("$__rate_interval", "5m"))


def check_syntax(title, expression):
    """promtool reads expressions in rules only, so this makes a rule of one."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump({"groups": [{"name": "dashboard", "rules": [{"record": "asked", "expr": expression}]}]}, file)
        file.flush()
        answer = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
    if answer.returncode != 0:
        problems.append(f"dashboard.json: {title} asks what promtool refuses: {answer.stderr.strip()}")


lines = (HERE / "metrics.txt").read_text().splitlines()
exported = {line for line in lines if line and not line.startswith("#")}
rules = rules_in((HERE / "alerts.yaml").read_text())
recorded = {rule["record"] for rule in rules if "record" in rule}
if not any("alert" in rule for rule in rules):
    sys.exit("alerts.yaml: no alert found")
check_rules(rules, exported | recorded, (HERE / "alerts_test.yaml").read_text(), RUNBOOK.read_text())
check_dashboard(json.loads((HERE / "dashboard.json").read_text()), exported)
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(1 if problems else 0)
