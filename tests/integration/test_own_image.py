"""Agents in images that know nothing of OpenCode, and what surrounds every agent: real containers, the real OpenCode."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from cnap_runner import AgentSpec, Message, RunnerManager, RunRequest, Settings
from cnap_runner.errors import ImageNotFound
from cnap_runner.image.base import LOCAL_BASE
from cnap_runner.image.kit import NEEDED_GLIBC, prepare_kit
from cnap_runner.image.probe import PROBE_LABEL
from cnap_runner.model.instance import LABEL_AGENT
from cnap_runner.testing.scripted_model import ScriptedModel, provider_config

pytestmark = [pytest.mark.engine, pytest.mark.opencode]

EMPTY = "cnap-test-empty:latest"
CONTRARY = """
FROM scratch
ENTRYPOINT ["/no/such/program"]
CMD ["nothing"]
USER 0
STOPSIGNAL SIGWINCH
VOLUME /var/lib/things
HEALTHCHECK CMD ["/no/such/check"]
ENV PATH=/project/bin OPENCODE_CONFIG_CONTENT={ XDG_CONFIG_HOME=/proc TZ=Asia/Tokyo PROJECT=kept
"""


@pytest.fixture(scope="module")
def empty_image(docker_client: docker.DockerClient) -> Iterator[str]:
    """An image without a single file, whose settings would each keep OpenCode from running."""
    docker_client.images.build(fileobj=io.BytesIO(CONTRARY.encode()), tag=EMPTY, rm=True, forcerm=True)
    yield EMPTY
    docker_client.images.remove(EMPTY, force=True)


@pytest.fixture(scope="module")
async def install(
    tmp_path_factory: pytest.TempPathFactory, runner_image: str, authority: Any
) -> AsyncIterator[RunnerManager]:
    """One manager for all tests here; nothing of its agents is left on the engine."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("install"),
        image=runner_image,
        fetch_models=False,
        ca_file=authority.ca_file,
        timezone="America/Caracas",
        git_name="Ada Lovelace",
        git_email="ada@example.org",
    )
    async with RunnerManager(settings) as manager:
        yield manager
        await manager.purge()


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[ScriptedModel]:
    """The scripted model, where containers reach it."""
    async with ScriptedModel(host="0.0.0.0") as scripted:
        yield scripted


@pytest.fixture(scope="module")
async def company_url(model: ScriptedModel, authority: Any) -> AsyncIterator[str]:
    """The same model, behind a certificate of the company's own authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.chain)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", model.port)
        await asyncio.gather(_copy(reader, behind_writer), _copy(behind_reader, writer))

    async with await asyncio.start_server(serve, "0.0.0.0", 0, ssl=context) as server:
        yield f"https://{authority.name}:{server.sockets[0].getsockname()[1]}/v1"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    writer.close()


class Agent:
    """An agent whose scripted model calls its shell tool."""

    def __init__(self, manager: RunnerManager, agent_id: str, base_url: str, *, image: str | None = None) -> None:
        self.key = manager.settings.data_dir / f"key-of-{agent_id}"
        self.key.write_text("sk-of-the-tests")
        self._manager = manager
        self._workspace: Path = manager.settings.data_dir / "workspace" / agent_id
        self._spec = AgentSpec(
            agent_id=agent_id,
            model="scripted/demo",
            image=image,
            opencode=provider_config(base_url, api_key="${KEY}"),
            secrets={"KEY": f"file:{self.key}"},
        )

    async def bash(self, script: str) -> str:
        """Run a script by the shell tool in one turn; return all that it wrote."""
        runner = await self._manager.create_runner(self._spec)
        (self._workspace / "script").write_text(script)
        prompt = "bash: sh ./script >out 2>&1\nsay: done"
        result = await runner.run(RunRequest(messages=[Message(role="user", content=prompt)]))
        assert (result.success, result.output) == (True, "done"), result.error
        return (self._workspace / "out").read_text()


async def test_an_agent_works_with_its_shell_tool_in_an_empty_image(
    install: RunnerManager, empty_image: str, model: ScriptedModel, docker_client: docker.DockerClient
) -> None:
    """Shell, tools, ripgrep, certificates and time zones come along; the image's own settings do not disturb, its PATH stays."""
    agent = Agent(install, "empty", model.base_url_at("host.docker.internal"), image=empty_image)
    said = await agent.bash("""
        echo "$PATH"; echo "$PROJECT ${XDG_CONFIG_HOME-none} $HOME"
        echo needle >file; rg needle file; env sh -c 'echo env'; date +%z
        grep -q BEGIN /etc/ssl/certs/ca-certificates.crt && echo trusted
        touch /var/lib/things/ours && echo written
        touch /etc/ours || echo read-only
    """)
    assert said.splitlines()[:7] == [
        "/project/bin:/agent/home/.local/bin:/usr/local/lib/cnap/bin",
        "kept none /agent/home",
        "needle",
        "env",
        "-0400",
        "trusted",
        "written",
    ]
    assert said.endswith("read-only\n")
    (container,) = docker_client.containers.list(filters={"label": f"{LABEL_AGENT}=empty"})
    assert container.attrs["Config"]["StopSignal"] == "SIGTERM"
    assert not [mount for mount in container.attrs["Mounts"] if mount["Type"] == "volume"]


async def test_secrets_are_renewed_in_an_empty_image_too(
    install: RunnerManager, empty_image: str, model: ScriptedModel
) -> None:
    """Without a restart: what that needs inside came along."""
    agent = Agent(install, "empty", model.base_url_at("host.docker.internal"), image=empty_image)
    before = await agent.bash("cat /proc/1/stat; ls -ld /run/secrets; cat /run/secrets/env-KEY")
    agent.key.write_text("sk-renewed-in-the-tests")
    await install.rotate_secrets("empty")
    after = await agent.bash("cat /proc/1/stat; ls -ld /run/secrets; cat /run/secrets/env-KEY")
    assert before.endswith("sk-of-the-tests")
    assert after.endswith("sk-renewed-in-the-tests")
    assert before.split()[21] == after.split()[21], "the container was started again"


async def test_an_agent_uses_what_its_image_has(
    install: RunnerManager, model: ScriptedModel, docker_client: docker.DockerClient
) -> None:
    """A Debian without git, curl and OpenCode: its own C library, shell and tools are used, and nothing of it is covered."""
    if not docker_client.images.list(LOCAL_BASE):
        pytest.skip("this engine has the public base image, not one made here")
    agent = Agent(install, "debian", model.base_url_at("host.docker.internal"), image=LOCAL_BASE)
    said = await agent.bash(
        "readlink -f /bin/sh; command -v tar; command -v wget; echo n | rg n; command -v opencode; date +%Z"
    )
    assert said.splitlines() == [
        "/usr/bin/dash",
        "/usr/bin/tar",
        "/usr/local/lib/cnap/bin/wget",
        "n",
        "/usr/local/bin/opencode",
        "-04",
    ]


async def test_every_agent_has_the_surroundings_of_the_settings(install: RunnerManager, company_url: str) -> None:
    """OpenCode, curl, Python and Node trust the company's authority; commits have an author, clocks the zone."""
    url = company_url + "/models"
    said = await Agent(install, "alice", company_url).bash(f"""
        curl --silent --show-error --output /dev/null --write-out '%{{http_code}}\\n' {url}
        python3 -c 'import urllib.request as r; print(r.urlopen("{url}").status)'
        node -e 'require("https").get("{url}", a => console.log(a.statusCode))'
        git init -q repo && git -C repo commit -q --allow-empty -m first && git -C repo log --format='%an <%ae>'
        date +%Z; node -p 'Intl.DateTimeFormat().resolvedOptions().timeZone'
    """)
    assert said.splitlines() == ["200"] * 3 + ["Ada Lovelace <ada@example.org>", "-04", "America/Caracas"]


def test_an_image_is_looked_into_without_a_trace(empty_image: str, runner_image: str, docker_client: Any) -> None:
    """No container stays, none of the image's programs runs, and what was seen once is not looked up again."""
    first = prepare_kit(empty_image, runner_image)
    assert first == prepare_kit(empty_image, runner_image)
    assert docker_client.containers.list(all=True, filters={"label": PROBE_LABEL}) == []


def test_our_own_image_needs_no_kit(runner_image: str) -> None:
    """Nor does one that is built on it: both carry our label."""
    assert prepare_kit(runner_image, runner_image) is None


def test_a_missing_image_is_told_with_what_to_do(runner_image: str, empty_image: str) -> None:
    """A start pulls nothing by itself: what runs is what its user fetched."""
    with pytest.raises(ImageNotFound, match="docker pull no-such-image:none"):
        prepare_kit("no-such-image:none", runner_image)
    with pytest.raises(ImageNotFound, match="which brings OpenCode into"):
        prepare_kit(empty_image, "no-such-image:none")


def test_opencode_needs_no_newer_c_library_than_we_say(runner_image: str, docker_client: docker.DockerClient) -> None:
    """An image is refused for its age by this number; the loader tells what a program asks for."""
    told = docker_client.containers.run(
        runner_image,
        ["-c", "LD_TRACE_LOADED_OBJECTS=1 LD_VERBOSE=1 /usr/local/bin/opencode"],
        entrypoint=["/bin/sh"],
        network_disabled=True,
        remove=True,
    ).decode()
    by_opencode, _, _ = told.partition("/usr/local/bin/opencode:\n")[2].partition("\n\t/")
    newest = max(int(minor) for minor in re.findall(r"[(]GLIBC_2\.(\d+)", by_opencode))
    assert (2, newest) == NEEDED_GLIBC
