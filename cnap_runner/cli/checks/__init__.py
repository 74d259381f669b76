"""What ``doctor`` looks at. Each check looks, changes nothing, and says what is wrong and how to mend it."""

from __future__ import annotations

from cnap_runner.cli.checks.data import check_data_folder, check_database, check_keeper, check_secrets
from cnap_runner.cli.checks.engine import check_egress, check_engine, check_image, check_npm
from cnap_runner.cli.checks.finding import Check, Finding, State
from cnap_runner.cli.checks.fitting import check_limits, check_models

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "State",
    "check_data_folder",
    "check_database",
    "check_egress",
    "check_engine",
    "check_image",
    "check_keeper",
    "check_limits",
    "check_models",
    "check_npm",
    "check_secrets",
]

CHECKS: tuple[Check, ...] = (
    check_engine,
    check_image,
    check_data_folder,
    check_database,
    check_secrets,
    check_keeper,
    check_limits,
    check_npm,
    check_models,
    check_egress,
)
