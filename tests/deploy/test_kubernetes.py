"""The manifests, held against Kubernetes' own schemas and against what leveret is.

No cluster has run them: that is said in `deploy/kubernetes/README.md`.
"""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import click
import kubernetes_validate
import pytest

from leveret.cli import leveret
from tests.deploy import variables
from tests.deploy.files import (
    EXAMPLE,
    KUBERNETES,
    ROOT,
    Document,
    Pod,
    manifest_files,
    manifests,
    pods,
    secret_references,
)

VERSIONS = ("1.25", kubernetes_validate.latest_version())
"""Of Kubernetes: the oldest that the manifests are for, and the newest with known schemas."""

each_pod = pytest.mark.parametrize("pod", pods(), ids=lambda pod: pod.service)


def named(kind: str, name: str = "leveret-worker") -> Document:
    """One manifest."""
    (found,) = [
        each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", manifests(), ids=lambda each: each["kind"])
def test_every_manifest_is_what_the_api_takes(manifest: Document, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def _misspelt(worker: Document) -> None:
    _container(worker)["enviroment"] = _container(worker).pop("env")


def _of_another_type(worker: Document) -> None:
    worker["spec"]["replicas"] = "two"


def _without_selector(worker: Document) -> None:
    del worker["spec"]["selector"]


def _with_a_number_as_value(worker: Document) -> None:
    _container(worker)["env"].append({"name": "LEVERET_SLOTS", "value": 8})


def _container(worker: Document) -> Document:
    container: Document = worker["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize(
    "break_it", [_misspelt, _of_another_type, _without_selector, _with_a_number_as_value]
)
def test_a_broken_manifest_is_refused(break_it: Callable[[Document], None]) -> None:
    worker = copy.deepcopy(named("Deployment"))
    break_it(worker)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(worker, VERSIONS[-1], strict=True)


def test_there_is_one_coordinator_and_it_keeps_its_catalog() -> None:
    coordinator = named("StatefulSet", "leveret-coordinator")
    assert coordinator["spec"]["replicas"] == 1
    claims = [claim["metadata"]["name"] for claim in coordinator["spec"]["volumeClaimTemplates"]]
    (pod,) = [pod for pod in pods() if pod.service == "coordinator"]
    catalog = pod.variables["LEVERET_CATALOG"]
    assert catalog is not None
    assert _volume_at(pod, catalog) in claims
    assert named("Service", coordinator["spec"]["serviceName"])["spec"]["clusterIP"] == "None"


def test_selectors_select_the_pods_that_they_are_for() -> None:
    for kind, name in (("Deployment", "leveret-worker"), ("StatefulSet", "leveret-coordinator")):
        spec = named(kind, name)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        for each in spec["template"]["spec"].get("topologySpreadConstraints", []):
            assert each["labelSelector"]["matchLabels"] == labels
    worker = named("Deployment")["spec"]["selector"]
    assert named("PodDisruptionBudget")["spec"]["selector"] == worker


def test_the_budget_lets_nodes_be_emptied() -> None:
    budget = named("PodDisruptionBudget")["spec"]
    assert "minAvailable" not in budget  # with few workers it would block for ever
    assert budget["maxUnavailable"] >= 1


@each_pod
def test_every_variable_is_one_that_the_service_reads(pod: Pod) -> None:
    assert set(pod.variables) <= variables.known(pod.service)


@each_pod
def test_the_service_accepts_every_value(pod: Pod) -> None:
    given = {name: value for name, value in pod.variables.items() if value is not None}
    assert given
    assert variables.parameters(pod.service, {**given, "LEVERET_URL": "amqp://rabbitmq"})


def test_a_value_that_the_service_would_refuse_is_noticed() -> None:
    with pytest.raises(click.BadParameter):
        variables.parameters("worker", {"LEVERET_DRAIN": "half a minute"})


@each_pod
def test_whatever_stops_has_its_time_before_it_is_killed(pod: Pod) -> None:
    given = {name: value for name, value in pod.variables.items() if value is not None}
    allowed = pod.spec["terminationGracePeriodSeconds"]
    assert allowed >= variables.longest_stop(pod.service, given)


def test_every_secret_is_one_that_is_documented() -> None:
    documented = set(_example())
    used = set(secret_references([*manifests()]))
    assert used
    assert {name for name, _ in used} == {"leveret"}
    assert {key for _, key in used} <= documented


def test_no_file_holds_a_secret() -> None:
    assert set(_example().values()) == {""}
    assert not [each for each in [*manifests(), *manifests("keda")] if each["kind"] == "Secret"]
    for path in [*manifest_files(), *manifest_files("keda")]:
        assert not re.search(r"//[^/\s]*:[^/\s]*@", path.read_text(encoding="utf-8")), path


def test_the_secret_is_made_as_the_page_says() -> None:
    page = (KUBERNETES / "README.md").read_text(encoding="utf-8")
    assert f"cp {EXAMPLE.name} secret.env" in page
    assert "kubectl create secret generic leveret --from-env-file=secret.env" in page
    assert "secret.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_only_workers_have_the_key() -> None:
    have = [pod.service for pod in pods() if "LEVERET_KEY" in pod.variables]
    assert have == ["worker"]


@each_pod
def test_probes_run_commands_that_there_are(pod: Pod) -> None:
    commands = {name: each["exec"]["command"] for name, each in _probes(pod).items()}
    assert set(commands) == {"startupProbe", "readinessProbe", "livenessProbe"}
    asked = {name: _parsed(command)["live"] for name, command in commands.items()}
    # A restart cures no broker that is away: what restarts a pod mustn't ask for the connection.
    assert asked == {"startupProbe": True, "readinessProbe": False, "livenessProbe": True}


def test_a_probe_that_the_command_line_lacks_is_noticed() -> None:
    with pytest.raises(click.UsageError):
        _parsed(["leveret", "health", "--lively"])
    with pytest.raises(click.UsageError):
        _parsed(["leveret", "healthy"])


@each_pod
def test_a_probe_has_longer_than_its_own_command_waits(pod: Pod) -> None:
    for probe in _probes(pod).values():
        within = _parsed(probe["exec"]["command"])["within"]
        assert isinstance(within, float)
        assert probe["timeoutSeconds"] >= within + 5  # Python has to start as well


@each_pod
def test_pods_may_do_nothing_that_they_need_not(pod: Pod) -> None:
    assert pod.spec["automountServiceAccountToken"] is False
    assert pod.spec["securityContext"]["runAsNonRoot"] is True
    assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@each_pod
def test_pods_run_as_the_user_of_the_image(pod: Pod) -> None:
    context = pod.spec["securityContext"]
    user = f"{context['runAsUser']}:{context['runAsGroup']}"
    assert set(re.findall(r"^USER (\S+)$", _dockerfile(), re.MULTILINE)) == {user}
    assert context["fsGroup"] == context["runAsGroup"]  # or its volumes would be root's


@each_pod
def test_services_can_write_where_they_have_to(pod: Pod) -> None:
    mounted = {mount["name"] for mount in pod.container["volumeMounts"]}
    declared = {volume["name"] for volume in pod.spec["volumes"]}
    assert declared <= mounted
    assert _volume_at(pod, "/tmp/anything") == "tmp"
    cache = pod.variables.get("LEVERET_PAYLOAD_CACHE")
    assert cache is None or _volume_at(pod, cache) in declared


@each_pod
def test_pods_say_what_they_need(pod: Pod) -> None:
    resources = pod.container["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}  # a limit of cpu throttles heartbeats as well


def _example() -> dict[str, str]:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def _dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def _probes(pod: Pod) -> dict[str, Document]:
    return {name: each for name, each in pod.container.items() if name.endswith("Probe")}


def _parsed(command: list[str]) -> dict[str, Any]:
    """What the command line makes of a command."""
    program, name, *arguments = command
    assert program == "leveret"
    with click.Context(leveret, info_name=program) as context:
        _, found, _ = leveret.resolve_command(context, [name, *arguments])
        assert found is not None
        return found.make_context(name, arguments).params


def _volume_at(pod: Pod, path: str) -> str | None:
    """The volume that a path lies on."""
    parents = {str(each) for each in PurePosixPath(path).parents} | {path}
    return next(_mounts(pod, parents), None)


def _mounts(pod: Pod, paths: set[str]) -> Iterator[str]:
    for mount in pod.container["volumeMounts"]:
        if mount["mountPath"] in paths:
            yield mount["name"]
