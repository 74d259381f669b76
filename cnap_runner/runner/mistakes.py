"""All that is known to be wrong with an agent's spec, before anything of it is stored, each with its place.

`RunnerManager.create_runner` refuses a spec for the same reasons, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec, unbuilt_fields
from cnap_runner.model.engine import Capabilities
from cnap_runner.model.git_source import check_branch, parse_git_source
from cnap_runner.runner.provisioning.checking import Finding, settings_findings
from cnap_runner.runner.provisioning.configuration import configuration
from cnap_runner.runner.provisioning.hardware import refuse_unable
from cnap_runner.runner.provisioning.planning import ANYWHERE
from cnap_runner.runner.reach import check_egress, check_rule
from cnap_runner.runner.secrecy.literals import check_entry
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.runner.workspaces.seeding import check_seed
from cnap_runner.settings import Settings

_Check = tuple[tuple[str | int, ...], Callable[[], object]]


def mistakes_of(
    spec: AgentSpec, *, settings: Settings, template: Mapping[str, Any], can: Capabilities
) -> list[Finding]:
    """Give everything that is known to be wrong with a spec for an install of these settings. Blocks: it looks at folders."""
    config = configuration(spec, template=template, settings=settings, layout=ANYWHERE)
    found = [Finding(tuple(path.split(".")), "it has no effect yet; leave it out.") for path in unbuilt_fields(spec)]
    found += [finding._replace(text=f"{finding.text}.") for finding in settings_findings(spec, config)]
    rules = [*_failed(spec, _rules(spec))]
    return [
        *found,
        *rules,
        *_failed(spec, () if rules else [(("egress",), partial(check_egress, spec, config))]),
        *_failed(spec, _secrets(spec)),
        *_failed(spec, _workspace(spec, settings)),
        *_failed(spec, [((), partial(refuse_unable, spec, settings, can))]),
    ]


def _failed(spec: AgentSpec, checks: Iterator[_Check] | list[_Check] | tuple[()]) -> Iterator[Finding]:
    for path, check in checks:
        try:
            check()
        except InvalidInput as error:
            yield Finding(path, str(error).removeprefix(f"Agent {spec.agent_id}: "))


def _rules(spec: AgentSpec) -> Iterator[_Check]:
    for index, text in enumerate(spec.egress.allow):
        yield ("egress", "allow", index), partial(check_rule, spec, text)


def _secrets(spec: AgentSpec) -> Iterator[_Check]:
    for name, value in spec.secrets.items():
        yield ("secrets", name), partial(check_entry, name, value)


def _workspace(spec: AgentSpec, settings: Settings) -> Iterator[_Check]:
    workspace = spec.workspace
    if workspace.copy_from is not None:
        folders = AgentFolders(settings.data_dir, spec.agent_id)
        yield ("workspace", "copy"), partial(check_seed, workspace, folders)
    if workspace.git is not None:
        yield ("workspace", "branch"), partial(check_branch, workspace.branch)
        yield ("workspace", "git"), partial(parse_git_source, workspace.git)
