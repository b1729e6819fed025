"""`headroom clean-nodes`: what Headroom wrote goes, what people wrote stays."""

import asyncio
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from headroom.commands.clean import main
from tests.fakes.apiserver import ApiServer

CARDS = '[{"id": "GPU-a", "model": "NVIDIA-L40S", "vram_mib": 46068}]'


def node(name: str, *, manager: str = "headroom", **annotations: str) -> dict[str, Any]:
    noted = {f"headroom.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    fields: dict[str, Any] = {"f:metadata": {"f:annotations": {f"f:{key}": {} for key in noted}}}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"example.com/mine": "kept", **noted},
            "managedFields": [{"manager": manager, "operation": "Update", "fieldsV1": fields}],
        },
    }


async def run(api: ApiServer, tmp_path: Path, *flags: str) -> Result:
    kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
    return await asyncio.to_thread(CliRunner().invoke, main, ["--kubeconfig", str(kubeconfig), "--settle", "0", *flags])


def left(api: ApiServer, name: str) -> dict[str, str]:
    found: dict[str, str] = api.get("/api/v1/nodes", name)["metadata"]["annotations"]
    return found


async def test_what_the_daemons_wrote_goes_and_what_people_wrote_stays(tmp_path: Path) -> None:
    async with ApiServer() as api:
        api.put("/api/v1/nodes", node("agents", cards=CARDS, links="{}", agent_tells="kubelet-cards", vram_freed="7"))
        api.put("/api/v1/nodes", node("by-hand", manager="kubectl-annotate", cards=CARDS))
        api.put("/api/v1/nodes", node("other"))
        result = await run(api, tmp_path, "--yes")
        assert result.exit_code == 0, result.output
        assert left(api, "agents") == {"example.com/mine": "kept"}
        assert left(api, "by-hand") == {"example.com/mine": "kept", "headroom.dev/cards": CARDS}
        assert result.output.splitlines() == [
            "agents: headroom.dev/agent-tells, headroom.dev/vram-freed, headroom.dev/cards, headroom.dev/links",
            "cleaned 1 node",
        ]


async def test_without_yes_nothing_is_written(tmp_path: Path) -> None:
    async with ApiServer() as api:
        api.put("/api/v1/nodes", node("agents", cards=CARDS))
        result = await run(api, tmp_path)
        assert result.output.splitlines()[-1] == "would clean 1 node; add --yes to do it"
        assert left(api, "agents")["headroom.dev/cards"] == CARDS
        assert {request.method for request in api.requests} == {"GET"}


async def test_a_node_that_may_not_be_changed_is_named(tmp_path: Path) -> None:
    async with ApiServer() as api:
        api.put("/api/v1/nodes", node("agents", cards=CARDS))
        api.fail("PATCH", "nodes/agents", status=403, message="nodes is forbidden")
        result = await run(api, tmp_path, "--yes")
        assert result.exit_code == 1
        assert "nodes/agents" in str(result.exception)
