"""A hook plugin of a stranger, installed as a distribution: found, loaded and asked as in a running agent."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = '''
"""Everything a hook plugin can do, once."""

import asyncio
import sys

import click
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from kat_platform.hooks import AdmissionReply, ApiRoute, HookInfo, NodeFacts, hookimpl
from kat_platform.interfaces.auth import Verb
from kat_platform.interfaces.scheduler import Contributions


class HouseRules:
    info = HookInfo(name="house-rules", version="1.2.3", summary="for tests")

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        refuse: str = Field(default="latest", description="The tag that is refused.")

    def __init__(self, config):
        self.config, self.heard = config, []

    @hookimpl
    async def admit_workload(self, change):
        self.heard.append((change.operation.value, change.namespace, change.name, change.caller.name, change.dry_run))
        if not change.documents:
            return AdmissionReply.reject("it is kept") if change.name == "kept" else None
        workload, *others = change.documents
        if workload["spec"]["source"]["image"].endswith(":" + self.config.refuse):
            return AdmissionReply.reject(f"no image may be tagged {self.config.refuse}")
        if workload["metadata"]["name"] == "odd":
            broken = {**workload, "spec": {**workload["spec"], "replicas": -1}}
            return AdmissionReply.change((broken, *others), "it is odd")
        if workload["spec"].get("priority", 0) == 0:
            raised = {**workload, "spec": {**workload["spec"], "priority": 7}}
            return AdmissionReply.change((raised, *others), "everything here matters", "priority is set here")
        return None

    @hookimpl
    async def scheduler_contributions(self):
        def quiet(demand, node):
            return "it is noisy" if node.labels.get("noise") == "loud" else None

        def big(demand, node):
            return 100.0 if node.name == "n3" else 0.0

        return Contributions((("quiet", quiet),), (("big", 1000.0, big),))

    @hookimpl
    async def node_facts(self):
        return NodeFacts({"disk": "ssd", "kat.dws.rip/arch": "pdp11", "not a label!": "x"}, {"disks": [{"size": 4}]})

    @hookimpl
    async def cli_commands(self):
        @click.command("house")
        @click.argument("word")
        def house(word):
            """Say what the rules of the house are."""
            click.echo(f"the rule is {self.config.refuse} {word}")

        @click.command("apply")
        def apply():
            """Take the place of another command."""
            click.echo("hijacked")

        return [house, apply]

    @hookimpl
    async def api_routes(self):
        async def tell(request):
            return web.json_response({"who": request["identity"].name, "word": request.match_info["word"]})

        async def change(request):
            return web.json_response(await request.json())

        async def break_down(request):
            raise ZeroDivisionError("inside")

        return [
            ApiRoute("GET", "tell/{word}", tell, summary="Tell a word."),
            ApiRoute("POST", "change", change, Verb.WRITE),
            ApiRoute("GET", "broken", break_down),
        ]
'''


class Stranger:
    """The folder that the plugin is installed in."""

    def __init__(self, site: Path) -> None:
        self.site = site

    def katcall(self, *arguments: object, config: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run ``katcall`` in a fresh Python that has the plugin installed."""
        path = os.pathsep.join([str(self.site), *filter(None, sys.path)])
        done = subprocess.run(
            [sys.executable, "-m", "kat_platform.cli.main", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path, "KAT_CONFIG": str(config)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "kt_house_rules-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kt-house-rules\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text("[kat.hooks]\nhouse-rules = kt_house_rules:HouseRules\n")
    (site / "kt_house_rules.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield Stranger(site)
    sys.modules.pop("kt_house_rules", None)
