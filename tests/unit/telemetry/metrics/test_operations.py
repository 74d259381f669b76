"""The dashboard, the alerts and the page about metrics speak of metrics that are there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cnap_runner.telemetry.metrics.exposition import InstallCollector, Reading

FOLDER = Path(__file__).parents[4] / "docs" / "operations"
NAME = re.compile(r"\bcnap_runner_[a-z_]+[a-z]\b")
OF_HISTOGRAMS = re.compile(r"_(bucket|count|sum)$")

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


@pytest.fixture
def text(make_reading: Callable[..., Reading]) -> str:
    """A whole scrape."""
    registry = CollectorRegistry()
    registry.register(InstallCollector(lambda: make_reading(is_per_agent=True)))
    return generate_latest(registry).decode()


@pytest.fixture
def shown(text: str) -> set[str]:
    """The names of all metrics; of a histogram, its own name alone."""
    return {
        OF_HISTOGRAMS.sub("", sample.name)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("name", ["alerts.yml", "alerts.test.yml", "grafana-dashboard.json", "metrics.md"])
def test_what_is_named_is_shown(shown: set[str], name: str) -> None:
    """A name that changed leaves an alert that never fires and a panel that stays empty."""
    named = {OF_HISTOGRAMS.sub("", found) for found in NAME.findall((FOLDER / name).read_text(encoding="utf-8"))}
    assert named
    assert named <= shown


def test_every_metric_is_explained(shown: set[str]) -> None:
    """Whoever sees one in a dashboard finds what it means."""
    assert shown <= set(NAME.findall((FOLDER / "metrics.md").read_text(encoding="utf-8")))


def test_each_alert_says_what_it_means_and_what_to_do() -> None:
    """Somebody who is woken by one has never read this code."""
    for rule in _rules():
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_alerts() -> None:
    """Their expressions can be read, and those with a test fire when they should and only then."""
    _promtool("check", "rules", str(FOLDER / "alerts.yml"))
    _promtool("test", "rules", str(FOLDER / "alerts.test.yml"))


@needs_promtool
def test_promtool_can_read_each_expression_of_the_dashboard(tmp_path: Path) -> None:
    """Grafana would show an error only to whoever opens it."""
    texts = [_filled(target["expr"]) for panel in _panels() for target in panel.get("targets", [])]
    rules = [{"record": f"panel_{number}", "expr": expression} for number, expression in enumerate(texts)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    _promtool("check", "rules", str(path))


@needs_promtool
def test_promtool_finds_nothing_wrong_with_a_scrape(text: str) -> None:
    """Names, units and help texts follow its rules."""
    _promtool("check", "metrics", given=text)


def _rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]:
        yield from group["rules"]


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))["panels"]
    return panels


def _filled(expression: str) -> str:
    return expression.replace("$__rate_interval", "5m").replace("$instance", "x")


def _promtool(*arguments: str, given: str | None = None) -> None:
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
