"""cluster.yaml, configs/kuberay/, configs/slurm/ and docs/cluster.md: valid, consistent with the package, and safe to start."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers import ROOT, options_of
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli

import ptycho_ray
from ptycho_ray.cluster import on_each_node

KUBERAY = ROOT / "configs/kuberay"
IN_THE_IMAGE = "/opt/ptycho_ray/"
#: The commands that the files in jobs/ call.
COMMANDS = {path.name: re.search(r'main\(\["([\w-]+)"', path.read_text())[1] for path in (ROOT / "jobs").glob("*.py")}


def read(file: str) -> Any:
    return yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, package
    return found[1]


# --- the launcher


@pytest.fixture
def rented() -> Any:
    return read("cluster.yaml")


def variant(rented: Any, name: str) -> Any:
    """The commented variant of that name in place of the sections that it replaces."""
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    block = re.search(rf"^#--- {name}\n(.*?)^#--- end$", text, re.MULTILINE | re.DOTALL)
    assert block
    return rented | yaml.safe_load(re.sub("^#", "", block[1], flags=re.MULTILINE))


@pytest.fixture
def on_premises(rented) -> Any:
    replaced = variant(rented, "on premises")
    return {name: value for name, value in replaced.items() if name not in ("available_node_types", "head_node_type")}


@pytest.fixture
def with_an_image(rented) -> Any:
    return variant(rented, "with an image")


def launcher_faults(config: dict[str, Any]) -> Iterator[str]:
    """What `ray up` would refuse (its own functions say it), and what it would accept although it is not meant."""
    try:
        full = prepare_config(copy.deepcopy(config))
        validate_config(full)
    except (ValueError, click.ClickException, jsonschema.ValidationError) as error:
        yield str(error).splitlines()[0]
        return
    types = dict(full["available_node_types"])
    if full["provider"]["type"] != "local":
        head = types.pop(full["head_node_type"])
        if "InstanceMarketOptions" in head["node_config"]:
            yield "the head is a spot machine"
        if head["resources"].get("CPU") != 0:
            yield "the head does work"
    for name, node in types.items():
        if node["max_workers"] > full["max_workers"]:
            yield f"max_workers of {name} is never reached"
    starts = {
        part: [line for line in full[part] if "ray start" in line]
        for part in ("head_start_ray_commands", "worker_start_ray_commands")
    }
    for part, lines in starts.items():
        if len(lines) != 1:
            yield f"{part} starts Ray {len(lines)} times"
        for line in lines:
            words = shlex.split(line.split("ray start", 1)[1])
            yield from (f"{part}: {fault}" for fault in unknown_options(ray_cli.commands["start"], words))
            if "RAY_AUTH_MODE=token" not in line:
                yield f"{part}: without the token"
            if "--disable-usage-stats" not in words:
                yield f"{part}: reports usage"
            if part.startswith("head") and "--dashboard-host=127.0.0.1" not in words:
                yield f"{part}: the dashboard is open to the network"


def unknown_options(command: click.Command, words: list[str]) -> Iterator[str]:
    """Options among ``words`` that the command does not have."""
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--") and word != "--" and word.split("=")[0] not in known | {"--help"}:
            yield f"no option {word.split('=')[0]}"


@pytest.mark.parametrize("config", ["rented", "on_premises", "with_an_image"])
def test_the_launcher_accepts_the_cluster(config, request):
    assert list(launcher_faults(request.getfixturevalue(config))) == []


def test_the_images_of_rented_machines_are_those_of_the_pods(with_an_image):
    docker = with_an_image["docker"]
    assert docker["image"].endswith(f"/ptycho-ray:{ptycho_ray.__version__}-cpu")
    assert docker["worker_image"].endswith(f"/ptycho-ray:{ptycho_ray.__version__}")
    assert not any("pip install" in command for command in with_an_image["setup_commands"])


SPOILED: dict[str, tuple[Callable[[Any], object], str]] = {
    "a misspelt field": (lambda c: c.update(idle_timeout=5), "'idle_timeout' was unexpected"),
    "a misspelt field of a node type": (
        lambda c: c["available_node_types"]["gpu_worker"].update(min_worker=1),
        "'min_worker' was unexpected",
    ),
    "half a GPU": (
        lambda c: c["available_node_types"]["gpu_worker"]["resources"].update(GPU=0.5),
        "0.5 is not of type 'integer'",
    ),
    "a head type that is not there": (lambda c: c.update(head_node_type="main"), "must be one of"),
    "more machines at least than at most": (
        lambda c: c.update(max_workers=3) or c["available_node_types"]["cpu_worker"].update(min_workers=4),
        "`max_workers` is smaller than",
    ),
    "a limit below that of a type": (lambda c: c.update(max_workers=8), "max_workers of gpu_worker is never reached"),
    "a head on a spot machine": (
        lambda c: c["available_node_types"]["head"]["node_config"].update(InstanceMarketOptions={"MarketType": "spot"}),
        "the head is a spot machine",
    ),
    "a worker without the token": (
        lambda c: c.update(worker_start_ray_commands=["ray start --disable-usage-stats"]),
        "worker_start_ray_commands: without the token",
    ),
    "a dashboard for all": (
        lambda c: c.update(head_start_ray_commands=[c["head_start_ray_commands"][1].replace("127.0.0.1", "0.0.0.0")]),
        "open to the network",
    ),
    "an option that Ray does not have": (
        lambda c: c.update(head_start_ray_commands=[c["head_start_ray_commands"][1] + " --gcs-port=1"]),
        "no option --gcs-port",
    ),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_mistake_in_the_launcher_file_is_found(spoil, rented):
    change, message = SPOILED[spoil]
    change(rented)
    assert message in "\n".join(launcher_faults(rented))


def test_machines_on_premises_need_addresses(on_premises):
    del on_premises["provider"]["worker_ips"]
    assert "worker_ips" in "".join(launcher_faults(on_premises))


def test_the_launcher_installs_the_pinned_packages_and_the_token(rented):
    setup = "\n".join(rented["setup_commands"])
    assert f"torch=={pinned('torch')}" in setup
    assert setup.index("torch==") < setup.index("-c constraints.txt")
    assert rented["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


# --- KubeRay


@pytest.fixture(
    params=["raycluster.yaml", "rayjob.yaml", "rayjob-8gpu-nodes.yaml", "raycronjob.yaml", "rayservice.yaml"]
)
def kuberay(request) -> Any:
    return read(f"configs/kuberay/{request.param}")


def job_of(thing: Any) -> Any:
    """The RayJobSpec of an object that has one, else its own spec."""
    return thing["spec"].get("jobTemplate", thing["spec"])


def cluster_of(thing: Any) -> Any:
    spec = job_of(thing)
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pods_of(thing: Any) -> list[Any]:
    cluster = cluster_of(thing)
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def all_pods_of(thing: Any) -> list[Any]:
    """The pods of the cluster with the containers that the operator adds, and the one that submits the job."""
    head, *workers = copy.deepcopy(pods_of(thing))
    cluster = cluster_of(thing)
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions", {})
        side_car = {name: options[name] for name in ("resources", "securityContext", "env") if name in options}
        head["containers"].append({"name": "autoscaler", "image": "as-the-head", **side_car})
    job = job_of(thing)
    submitters = []
    if job.get("submissionMode") == "K8sJobMode":  # without a template the operator's own has no security context
        submitters = [
            job.get("submitterPodTemplate", {"spec": {"containers": [{"name": "ray-job-submitter"}]}})["spec"]
        ]
    return [head, *workers, *submitters]


def kuberay_faults(thing: Any) -> list[str]:
    """Where the object leaves KubeRay's schema or Kubernetes', and what the operator refuses beyond it."""
    schema = read("tests/cluster/schemas/kuberay.yaml")
    chosen = {**schema, "oneOf": [{"$ref": f"#/definitions/{thing['kind']}"}]}
    faults = [
        deep.message
        for error in jsonschema.Draft7Validator(chosen).iter_errors(thing)
        for deep in (error.context or [error])
    ]
    if faults:
        return faults
    for group in cluster_of(thing)["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            faults.append(f"replicas of {group['groupName']} out of its range")
    for pod in pods_of(thing):
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        faults += [f"no volume {name}" for name in mounted - volumes]
        for container in pod["containers"]:  # Kubernetes' schema takes any text
            amounts = [str(amount) for part in container["resources"].values() for amount in part.values()]
            faults += [f"{a!r} is no quantity" for a in amounts if not re.fullmatch(r"\d+(\.\d+)?(m|[KMGT]i?|k)?", a)]
    for pod in all_pods_of(thing):
        faults += kubernetes_faults({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod})
    return faults


def kubernetes_faults(thing: Any) -> list[str]:
    try:
        kubernetes_validate.validate(thing, "1.37", strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error.message)]
    return []


def restricted_faults(pod: Any) -> list[str]:
    """What Pod Security's level "restricted" refuses, as far as pods here could break it."""
    faults = []
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            faults.append(field)
    common = pod.get("securityContext", {})
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}:
            faults.append(f"volume {volume['name']}: {kinds}")
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        name = container["name"]
        if own.get("allowPrivilegeEscalation") is not False:
            faults.append(f"{name}: allowPrivilegeEscalation")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or "add" in own.get("capabilities", {}):
            faults.append(f"{name}: capabilities")
        profile = own.get("seccompProfile", common.get("seccompProfile", {}))
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            faults.append(f"{name}: seccompProfile")
        if own.get("runAsNonRoot", common.get("runAsNonRoot")) is not True or own.get("runAsUser") == 0:
            faults.append(f"{name}: runAsNonRoot")
    return faults


def test_a_restricted_namespace_admits_every_pod(kuberay):
    pods = all_pods_of(kuberay)
    assert [fault for pod in pods for fault in restricted_faults(pod)] == []
    for pod in pods:
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]) & set(container["resources"]["limits"])


def test_a_submitter_of_the_operators_own_is_refused_there():
    job = read("configs/kuberay/rayjob.yaml")
    del job["spec"]["submitterPodTemplate"], job["spec"]["rayClusterSpec"]["autoscalerOptions"]["securityContext"]
    faults = [fault for pod in all_pods_of(job) for fault in restricted_faults(pod)]
    assert {"ray-job-submitter: runAsNonRoot", "autoscaler: seccompProfile", "autoscaler: capabilities"} <= set(faults)


@pytest.mark.parametrize("file", ["namespace.yaml", "network-policy.yaml", "storage.yaml"])
def test_kubernetes_accepts_the_files(file):
    for thing in yaml.safe_load_all((KUBERAY / file).read_text(encoding="utf-8")):
        assert kubernetes_faults(thing) == []


@pytest.mark.parametrize(
    ("patch", "file"), [("rayservice-incremental.yaml", "rayservice.yaml"), ("historyserver.yaml", "raycluster.yaml")]
)
def test_what_a_patch_makes_of_the_file_is_accepted(patch, file):
    thing, change = read(f"configs/kuberay/{file}"), read(f"configs/kuberay/{patch}")["spec"]
    thing["spec"] |= change
    assert kuberay_faults(thing) == []
    assert f"kubectl patch {thing['kind'].lower()} {thing['metadata']['name']} " in (KUBERAY / patch).read_text()


def test_eight_gpus_of_a_node_share_its_memory():
    job = read("configs/kuberay/rayjob-8gpu-nodes.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    (group,) = cluster_of(job)["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert int(words[words.index("--workers") + 1]) == group["replicas"] * gpus == 32
    (shared,) = (volume for volume in group["template"]["spec"]["volumes"] if "emptyDir" in volume)
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "112Gi"}
    assert {"name": shared["name"], "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert int(group["rayStartParams"]["object-store-memory"]) < 112 * 2**30
    assert "enableInTreeAutoscaling" not in cluster_of(job)  # Kueue admits a size that is fixed
    queues = [
        thing for thing in yaml.safe_load_all((KUBERAY / "kueue.yaml").read_text()) if thing["kind"] == "LocalQueue"
    ]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queues[0]["metadata"]["name"]


def test_kuberay_accepts_the_files(kuberay):
    assert kuberay_faults(kuberay) == []


KUBERAY_SPOILED: dict[str, tuple[Callable[[Any], object], str]] = {
    "a misspelt field of the cluster": (
        lambda c: cluster_of(c).update(enableInTreeAutoscalling=True),
        "'enableInTreeAutoscalling' was unexpected",
    ),
    "a misspelt field of a pod": (
        lambda c: pods_of(c)[0].update(nodeSelektor={}),
        "'nodeSelektor' was unexpected",
    ),
    "a misspelt field of a container": (
        lambda c: pods_of(c)[1]["containers"][0].update(imagePulPolicy="Always"),
        "'imagePulPolicy' was unexpected",
    ),
    "no upper limit": (
        lambda c: cluster_of(c)["workerGroupSpecs"][-1].pop("maxReplicas"),
        "'maxReplicas' is a required",
    ),
    "too many at the start": (
        lambda c: cluster_of(c)["workerGroupSpecs"][-1].update(replicas=9),
        "replicas of gpu out of its range",
    ),
    "a number where Ray wants text": (
        lambda c: cluster_of(c)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        "0 is not of type 'string'",
    ),
    "an authentication that does not exist": (
        lambda c: cluster_of(c).update(authOptions={"mode": "password"}),
        "'password' is not one of",
    ),
    "memory in an unknown unit": (
        lambda c: pods_of(c)[0]["containers"][0]["resources"]["limits"].update(memory="16GB"),
        "'16GB' is no quantity",
    ),
    "a volume that is not there": (
        lambda c: pods_of(c)[0].update(volumes=[]),
        "no volume data",
    ),
}


@pytest.mark.parametrize("spoil", KUBERAY_SPOILED)
def test_a_mistake_in_a_kuberay_file_is_found(spoil, kuberay):
    change, message = KUBERAY_SPOILED[spoil]
    change(kuberay)
    assert message in "\n".join(kuberay_faults(kuberay))


def test_a_misspelt_field_of_a_rayjob_is_found():
    job = read("configs/kuberay/rayjob.yaml")
    job["spec"]["shutdownAfterJobFinish"] = True
    assert "'shutdownAfterJobFinish' was unexpected" in "\n".join(kuberay_faults(job))


def test_the_pods_run_what_was_tested_and_with_few_rights(kuberay):
    cluster = cluster_of(kuberay)
    assert cluster["rayVersion"] == pinned("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    if kuberay["kind"] != "RayService":
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for pod in pods_of(kuberay):
        (container,) = pod["containers"]
        variant = "" if "nvidia.com/gpu" in container["resources"]["limits"] else "-cpu"
        assert container["image"] == f"ptycho-ray:{ptycho_ray.__version__}{variant}"
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume}
        assert claims == {read("configs/kuberay/storage.yaml")["metadata"]["name"]}


def test_the_job_fits_into_its_cluster():
    job = read("configs/kuberay/rayjob.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    fewest, most = map(int, words[words.index("--workers") + 1].split(":"))
    (gpus,) = (group for group in cluster_of(job)["workerGroupSpecs"] if group["groupName"] == "gpu")
    assert (gpus["minReplicas"], gpus["maxReplicas"]) == (fewest, most)
    assert words[words.index("--execution.accelerator") + 1] == "gpu"
    assert words[words.index("--output-dir") + 1].startswith("/data/")
    assert words[2].startswith("/data/")


def test_rays_ports_are_closed_but_to_the_namespace_and_the_operator():
    policy = read("configs/kuberay/network-policy.yaml")
    assert policy["spec"]["podSelector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    inside, operator = policy["spec"]["ingress"]
    assert inside == {"from": [{"podSelector": {}}]}
    assert [port["port"] for port in operator["ports"]] == [8265, 52365, 8000]


def test_the_image_is_made_of_what_is_here():
    lines = (KUBERAY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied
    allowed = (KUBERAY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in allowed, path
    runs = [line for line in lines if line.startswith("RUN pip")]
    assert runs[0].endswith(f"torch=={pinned('torch')}")
    assert "-c constraints.txt" in runs[1]
    assert [line for line in lines if line.startswith("USER")] == ["USER ray"]


def test_the_script_builds_and_pushes_the_two_images_of_the_pods(tmp_path):
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n', encoding="utf-8")
    docker.chmod(0o755)
    script = [str(KUBERAY / "build_images.sh"), "registry.example.org/"]
    subprocess.run(script, env={**os.environ, "DOCKER": str(docker)}, check=True)
    cuda, pushed, cpu, pushed_cpu = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    image = f"registry.example.org/ptycho-ray:{ptycho_ray.__version__}"
    assert cuda == f"build -f configs/kuberay/Dockerfile -t {image} ."
    assert cpu.startswith(f"build -f configs/kuberay/Dockerfile -t {image}-cpu --build-arg TORCH_INDEX=")
    assert (pushed, pushed_cpu) == (f"push {image}", f"push {image}-cpu")


def test_the_builds_of_the_two_images_count_as_one_version(monkeypatch):
    monkeypatch.setattr(on_each_node.importlib.metadata, "version", lambda package: "2.13.0+cpu")
    assert on_each_node.versions()["torch"] == "2.13.0"


def test_ray_is_pinned_once():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert f"ray[train,tune,serve]=={pinned('ray')}" in extras["cluster"]


# --- commands: what is written down can be typed


def command_faults(line: str) -> list[str]:
    """Options and files of a command line that do not exist."""
    words = shlex.split(line, comments=True)
    if words[:3] == ["ray", "job", "submit"]:
        inner = words[words.index("--") + 1 :]
        return [*ray_faults(words[1 : words.index("--")]), *command_faults(shlex.join(inner))]
    if words[0] == "ray":
        return ray_faults(words[1:])
    if words[0] == "ptycho-ray":
        command, rest = words[1], words[2:]
    elif words[0] == "python" and "jobs/" in words[1]:
        command, rest = COMMANDS[Path(words[1]).name], words[1:]
    else:
        return []
    faults = [f"no option {word}" for word in rest if word.startswith("--") and word not in options_of(command)]
    for word in rest:
        ours = word.removeprefix(IN_THE_IMAGE)
        if ours.startswith(("configs/", "jobs/")) and not (ROOT / ours).is_file():
            faults.append(f"no file {word}")
    return faults


def ray_faults(words: list[str]) -> list[str]:
    command: click.Command = ray_cli
    while isinstance(command, click.Group) and words:
        name, words = words[0], words[1:]
        if name not in command.commands:
            return [f"no command {name}"]
        command = command.commands[name]
    if command.name == "symmetric_run":  # it hands what it does not know itself to `ray start`
        words = words[: words.index("--")]
        return sorted(set(unknown_options(command, words)) & set(unknown_options(ray_cli.commands["start"], words)))
    return list(unknown_options(command, words))


def written_commands() -> list[str]:
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    return [line for line in blocks.splitlines() if line and not line.startswith("#")]


def test_the_commands_of_the_cluster_page_exist():
    lines = written_commands()
    assert len(lines) >= 15
    assert {line: faults for line in lines if (faults := command_faults(line))} == {}


def test_the_entrypoint_of_the_rayjob_exists():
    assert command_faults(read("configs/kuberay/rayjob.yaml")["spec"]["entrypoint"]) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("ptycho-ray train scan.npz --worker 2", "no option --worker"),
        ("python /opt/ptycho_ray/jobs/train.py /data/scan.npz --config configs/train/no.yaml", "no file configs/train/no.yaml"),
        ("ray job submit --working-directory . -- python jobs/train.py", "no option --working-directory"),
        ("ray job submit --working-dir . -- python jobs/train.py --nepoch 1", "no option --nepoch"),
        ("ray symmetric-start --address a:1", "no command symmetric-start"),
        ("ray symmetric-run --address a:1 --cpus 1 -- true", "no option --cpus"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_command_is_found(line, fault):
    assert fault in command_faults(line)


# --- Slurm


@pytest.fixture
def slurm(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the batch file with a srun and a scontrol that only note what they are asked; ``ray`` makes the head start."""
    tools = {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": '[ "$1" = rm ] || { printf "%s\\n" "$@" > "$NOTES/asked"; stat -c %a "$RAY_AUTH_TOKEN_PATH" > "$NOTES/mode"; '
        'echo "$RAY_ADDRESS" > "$NOTES/address"; if [ -n "$STARTS" ]; then touch "$RAY_AUTH_TOKEN_PATH.started"; fi; }',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)

    def run(*words: str, starts: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "NOTES": str(tmp_path),
            "STARTS": "1" if starts else "",
            "SLURM_JOB_ID": "4711123",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_ON_NODE": "64",
        }
        line = ["bash", str(ROOT / "configs/slurm/train.sbatch"), *words]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_batch_file_starts_a_cluster_with_a_token_of_its_own(slurm, tmp_path):
    done = slurm("/shared/a scan.h5", "--output-dir", "/shared/one")
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    start = words.index("ray")
    assert ray_faults(words[start + 1 :]) == []
    assert words[words.index("--address") + 1] == "node7:21123"
    assert words[words.index("--min-nodes") + 1] == "2"
    assert words[-3:] == ["/shared/a scan.h5", "--output-dir", "/shared/one"]
    assert command_faults("ptycho-ray train --workers auto") == []
    assert (tmp_path / "mode").read_text(encoding="utf-8").strip() == "600"
    assert (tmp_path / "address").read_text(encoding="utf-8").strip() == "node7:21123"
    assert not list(tmp_path.glob(".ray-token*")), "the token is left behind"


def test_the_batch_file_fails_where_symmetric_run_would_call_it_a_success(slurm):
    done = slurm("/shared/scan.h5", starts=False)
    assert done.returncode == 1
    assert "Ray did not start" in done.stderr
