"""The descriptions of clusters are such that Ray and Kubernetes accept, and run the versions that are pinned."""

import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
LAUNCHER = ("cluster.yaml", "deploy/local.yaml")


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture(scope="module")
def cluster() -> dict:
    return read("cluster.yaml")


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_accepts_it(name):
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_refuses_an_unknown_key(name):
    # the schema is Ray's own: a check that accepted everything would pass the test above
    with pytest.raises(Exception, match="idle_minutes"):
        validate_config(read(name) | {"idle_minutes": 3})


def test_gpu_workers_start_from_none_and_the_head_has_no_gpu(cluster):
    head = cluster["head_node_type"]
    assert "GPU" not in cluster["available_node_types"][head]["resources"]
    workers = [node for name, node in cluster["available_node_types"].items() if name != head]
    assert workers
    for worker in workers:
        assert worker["min_workers"] == 0
        assert worker["resources"]["GPU"] >= 1
        assert worker["max_workers"] <= cluster["max_workers"]


def test_nodes_run_the_pinned_ray_and_uv():
    text = {name: (ROOT / name).read_text() for name in (*LAUNCHER, "deploy/rayjob.yaml", "deploy/Dockerfile")}
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)[1]
    assert set(re.findall(r"rayproject/ray:([\d.]+)-py311", text["cluster.yaml"] + text["deploy/Dockerfile"])) == {
        pinned
    }
    assert read("deploy/rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned
    uv = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.M)[1]
    for name in (*LAUNCHER, "deploy/Dockerfile"):
        assert re.findall(r"uv==(\S+)", text[name]) == [uv]


def options(commands: list[str]) -> dict[str, str | None]:
    """Return the options of the ``ray start`` among commands."""
    (start,) = [line.split("ray start", 1)[1] for line in commands if "ray start" in line]
    return {name: value or None for name, _, value in (word.partition("=") for word in start.split())}


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_dashboard_of_the_head_listens_on_loopback(name):
    assert options(prepare_config(read(name))["head_start_ray_commands"])["--dashboard-host"] == "127.0.0.1"


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_nodes_in_the_cloud_start_as_ray_would_start_them_but_for_the_dashboard(cluster, kind):
    defaults = yaml.safe_load((Path(ray.__file__).parent / "autoscaler" / "aws" / "defaults.yaml").read_text())
    theirs, ours = (options(each[f"{kind}_start_ray_commands"]) for each in (defaults, prepare_config(cluster)))
    if kind == "head":
        assert (theirs.pop("--dashboard-host"), ours.pop("--dashboard-host")) == ("0.0.0.0", "127.0.0.1")
    assert ours == theirs


def test_every_node_gets_a_token_and_no_file_holds_a_secret(cluster):
    for config in map(read, LAUNCHER):
        assert [place for place in config["file_mounts"] if place.endswith("/.ray/auth_token")]
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert any("RAY_AUTH_MODE=token" in command for command in read("deploy/local.yaml")["setup_commands"])
    assert read("deploy/rayjob.yaml")["spec"]["rayClusterSpec"]["authOptions"] == {
        "mode": "token",
        "secretName": "ipsolve-token",
    }
    for path in [ROOT / "cluster.yaml", *(ROOT / "deploy").iterdir()]:
        assert not re.search(r"AKIA|aws_secret|PRIVATE KEY|RAY_AUTH_TOKEN", path.read_text()), path


# The fields of a RayJob (ray.io/v1, CRD of KubeRay 1.7.0) that deploy/rayjob.yaml uses. A key that is not here is
# one that somebody has to look up in the CRD before adding it.
TEXT, WHOLE, YES_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NAMED = {"type": "array", "items": {"type": "object", "required": ["name"]}}
MAP = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}


def fields(required: tuple[str, ...] = (), **properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


CONTAINER = fields(
    ("name", "image"),
    name=TEXT,
    image=TEXT,
    resources=fields(limits=MAP, requests=MAP),
    ports={"type": "array", "items": fields(("containerPort",), name=TEXT, containerPort=WHOLE)},
    volumeMounts={"type": "array", "items": fields(("name", "mountPath"), name=TEXT, mountPath=TEXT)},
)
TOLERATION = fields(key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT, effect={"enum": ["NoSchedule"]})
POD = fields(
    ("containers",),
    serviceAccountName=TEXT,
    restartPolicy={"enum": ["Always", "Never", "OnFailure"]},
    containers={"type": "array", "items": CONTAINER},
    tolerations={"type": "array", "items": TOLERATION},
    volumes=NAMED,
)
GROUP = {"rayStartParams": MAP, "template": fields(("spec",), spec=POD)}
WORKERS = fields(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    **GROUP,
)
CLUSTER = fields(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=fields(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling=YES_NO,
    autoscalerOptions=fields(version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=WHOLE),
    headGroupSpec=fields(("template",), **GROUP),
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
RAYJOB = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields(("name",), name=TEXT),
    spec=fields(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=TEXT,
        shutdownAfterJobFinishes=YES_NO,
        ttlSecondsAfterFinished=WHOLE,
        rayClusterSpec=CLUSTER,
    ),
)


def test_the_rayjob_has_the_fields_of_the_crd():
    jsonschema.Draft202012Validator(RAYJOB).validate(read("deploy/rayjob.yaml"))


def test_the_rayjob_asks_for_the_gpus_that_may_come():
    spec = read("deploy/rayjob.yaml")["spec"]
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert workers["minReplicas"] == 0
    assert f"compute.num_actors={workers['maxReplicas'] * limits['nvidia.com/gpu']}" in spec["entrypoint"]
    assert "compute.gpus_per_actor=1" in spec["entrypoint"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]


def pods() -> list[dict]:
    cluster = read("deploy/rayjob.yaml")["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_the_account_of_the_pods_is_made_by_a_command_that_is_written_down():
    (account,) = {pod["serviceAccountName"] for pod in pods()}
    for name in ("deploy/rayjob.yaml", "docs/cluster.md"):
        assert f"kubectl create serviceaccount {account}" in (ROOT / name).read_text()


def test_every_pod_has_shared_memory_for_the_object_store():
    for pod in pods():
        in_memory = {volume["name"] for volume in pod["volumes"] if volume["emptyDir"]["medium"] == "Memory"}
        for container in pod["containers"]:
            assert [mount["name"] in in_memory for mount in container["volumeMounts"]] == [True]
            assert container["volumeMounts"][0]["mountPath"] == "/dev/shm"


def strict(schema: dict) -> dict:
    """Return a Kubernetes schema as JSON Schema: unknown fields are errors, and numbers may be written as text."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = strict(schema[key])
    return schema


def test_the_rayjob_is_valid_by_the_whole_crd():
    path = os.environ.get("IPSOLVE_RAYJOB_CRD")
    if path is None:
        pytest.skip(
            "IPSOLVE_RAYJOB_CRD names no file: ray.io_rayjobs.yaml of KubeRay's helm-chart/kuberay-operator/crds"
        )
    crd = yaml.safe_load(Path(path).read_text())
    (version,) = [each for each in crd["spec"]["versions"] if each["name"] == "v1"]
    check = jsonschema.Draft202012Validator(strict(version["schema"]["openAPIV3Schema"]))
    manifest = read("deploy/rayjob.yaml")
    assert [error.message for error in check.iter_errors(manifest)] == []
    manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["toleration"] = []
    assert any("toleration" in error.message for error in check.iter_errors(manifest))


LOOPBACK = ROOT / "deploy" / "loopback.sh"


def test_the_loopback_script_refuses_in_one_line(tmp_path):
    for name in ("dirname", "uname"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(["/bin/bash", LOOPBACK], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    # without root or, where there is root, without what the search path above does not lead to
    assert done.returncode == 2
    assert re.fullmatch(r"error: deploy/loopback.sh needs .*\n", done.stderr)


@pytest.mark.skipif("IPSOLVE_TEST_LAUNCHER" not in os.environ, reason="takes minutes, root and sshd")
@pytest.mark.timeout(900)
def test_a_cluster_comes_up_over_ssh_runs_a_job_and_goes(tmp_path):
    from tests.ray_jobs.small_runs import mapping

    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump(mapping(tmp_path)))
    done = subprocess.run([LOOPBACK, config, f"output={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no Ray process left" in done.stdout
    assert '"state": "complete"' in done.stdout
