"""A Ray head of one's own, as `ray start` makes it: on loopback, with a token, and ended by its process id."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
SECONDS_UNTIL_AN_AGENT = 120.0
JOB = ("python", "-m", "ray_jobs.evaluate")


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    """Return when ``condition`` holds; fail when it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Head:
    """A running head and the environment that its clients need: addresses and the token."""

    address: str  # of the cluster, for ray.init
    dashboard: str  # of the job server
    env: dict[str, str]
    folder: Path

    def ray(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of Ray's command line from the root of the repository."""
        return subprocess.run([RAY, *words], cwd=ROOT, env=env or self.env, capture_output=True, text=True, timeout=400)

    def submit(
        self, name: str, *words: str, wait: bool = True, upload: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Submit ``words`` as docs/cluster.md says; wait for the end of the job, or return when it is on its way.

        Without ``upload`` the job uses the files of this checkout: where two nodes share a machine, and with it Ray's
        folder, the second one deletes what was uploaded and unpacks it again under the feet of those who work there.
        """
        options = ["--submission-id", name]
        if upload:
            options += ["--runtime-env", "deploy/runtime_env.yaml", "--working-dir", "."]
        else:
            options += ["--runtime-env-json", json.dumps({"env_vars": {"PYTHONPATH": str(ROOT)}})]
        options += ["--metadata-json", json.dumps({"git_commit": "the one submitted"})]
        command = ("job", "submit", *options, *([] if wait else ["--no-wait"]), "--", *words)
        done = self.ray(*command)
        deadline = time.monotonic() + SECONDS_UNTIL_AN_AGENT
        # a head answers before the agent of its node is up, which takes a busy machine longer; nothing was submitted
        while "No available agent to submit job" in done.stderr and time.monotonic() < deadline:
            time.sleep(2)
            done = self.ray(*command)
        return done

    def get(self, path: str) -> Any:
        """Return what the job server answers."""
        request = urllib.request.Request(
            f"{self.dashboard}{path}", headers={"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def job(self, name: str) -> dict[str, Any]:
        """Return what the job server knows of a job: ``status``, ``driver_exit_code`` and more."""
        known: dict[str, Any] = self.get(f"/api/jobs/{name}")
        return known

    def log(self, name: str) -> str:
        """Return what a job has printed."""
        return str(self.get(f"/api/jobs/{name}/logs")["logs"])


def fake_cluster(node_types: dict[str, Any], address: str) -> dict[str, Any]:
    """Return the configuration of a cluster whose nodes are processes of this machine."""
    head: dict[str, Any] = {"resources": {"CPU": 3}, "node_config": {}, "max_workers": 0}
    # by its class, because the wheel of Ray 2.60 lacks the defaults of its type `fake_multinode`
    provider = {"type": "external", "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"}
    provider |= {"gcs_address": address, "head_node_id": FAKE_HEAD_NODE_ID}
    return {
        "cluster_name": "fake",
        "max_workers": sum(kind["max_workers"] for kind in node_types.values()),
        "provider": provider | {"launch_multiple": True, "use_node_id_as_ip": True, "disable_node_updaters": True},
        "rsync_exclude": [],
        "rsync_filter": [],
        "available_node_types": {"ray.head.default": head, **node_types},
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 1,
        "upscaling_speed": 1.0,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{kind}_commands": [] for kind in ("initialization", "setup", "head_setup", "worker_setup")},
        **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
    }


@contextmanager
def running_head(*options: str, node_types: dict[str, Any] | None = None) -> Iterator[Head]:
    """Start a head with further ``options`` of `ray start`; end it, and all that it started, on leaving.

    Never by `ray stop`, which ends every Ray of the machine.

    Args:
        node_types: with it the head has Ray's autoscaler, which starts nodes of these kinds as processes here.
    """
    gcs, dashboard, agent, client = (free_port() for _ in range(4))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    clean |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux, too: stay on 127.0.0.1 where that is asked for
        "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}",  # of what jobs call `python`
    }
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path: those of sockets end at 107 bytes
        head = Head(f"127.0.0.1:{gcs}", clean["RAY_API_SERVER_ADDRESS"], clean, Path(folder))
        command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
        command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
        command += ["--object-store-memory=200000000", *options]
        if node_types is not None:
            cluster = head.folder / "cluster.yaml"
            cluster.write_text(yaml.safe_dump(fake_cluster(node_types, head.address)))
            command += [f"--autoscaling-config={cluster}"]
            clean |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1"}
            clean |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
        with open(head.folder / "start.log", "w") as log:
            process = subprocess.Popen(command, env=clean, stdout=log, stderr=log)
        try:
            wait_for(lambda: process.poll() is not None or _answers(head))
            assert process.poll() is None, (head.folder / "start.log").read_text()
            yield head
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            _, alive = psutil.wait_procs(family, 5)  # Ray would take half a minute over a farewell
            for left in alive:
                with suppress(psutil.NoSuchProcess):
                    left.kill()
            process.kill()
            process.wait()


def _answers(head: Head) -> bool:
    try:
        return bool(head.get("/api/jobs/") is not None)
    except (OSError, urllib.error.URLError):
        return False
