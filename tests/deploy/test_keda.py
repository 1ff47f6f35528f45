"""The option for KEDA, held against its documentation and against leveret's names."""

import copy
import re
from collections.abc import Callable

import kubernetes_validate
import pydantic
import pytest

from leveret_broker import topology
from tests.deploy import keda
from tests.deploy.files import EXAMPLE, Document, manifests, pods


def document(kind: str) -> Document:
    (found,) = [each for each in manifests("keda") if each["kind"] == kind]
    return found


def scaled() -> keda.ScaledObject:
    return keda.scaled_object(document("ScaledObject"))


def queues() -> keda.RabbitQueues:
    (trigger,) = scaled().spec.triggers
    return trigger.metadata


def _misspelt(spec: Document) -> None:
    spec["maxReplicas"] = spec.pop("maxReplicaCount")


def _misspelt_far_below(spec: Document) -> None:
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    behavior["scaleDown"]["stabilisationWindowSeconds"] = 1


def _number_in_metadata(spec: Document) -> None:
    spec["triggers"][0]["metadata"]["value"] = 8


def _without_triggers(spec: Document) -> None:
    spec["triggers"] = []


@pytest.mark.parametrize(
    "break_it", [_misspelt, _misspelt_far_below, _number_in_metadata, _without_triggers]
)
def test_a_broken_resource_is_refused(break_it: Callable[[Document], None]) -> None:
    broken = copy.deepcopy(document("ScaledObject"))
    break_it(broken["spec"])
    with pytest.raises((pydantic.ValidationError, kubernetes_validate.ValidationError)):
        keda.scaled_object(broken)


def test_the_trigger_asks_for_what_only_the_management_api_tells_there() -> None:
    found = queues()
    assert (found.protocol, found.use_regex) == ("http", "true")
    assert found.exclude_unacknowledged == "false"  # what workers execute counts
    assert int(found.page_size) <= 500  # RabbitMQ's own limit
    assert float(found.value) > 0


def test_the_trigger_counts_the_work_queues_of_the_workers_project_and_no_others() -> None:
    (worker,) = [pod for pod in pods() if pod.service == "worker"]
    project = worker.variables["LEVERET_PROJECT"]
    assert project is not None
    pattern = re.compile(queues().queue_name)
    assert pattern.search(topology.work_queue_name(project, "train_model", "0.0.1"))
    for name in (
        topology.work_queue_name(f"{project}2", "train_model", "0.0.1"),
        topology.work_queue_name("other", project, "1"),
        topology.reply_queue_name(topology.owned(project, "session_1")),
        topology.control_queue(topology.owned(project, "worker_1")).name,
        topology.REQUESTS.name,
        topology.OUTCOMES.name,
    ):
        assert not pattern.search(name), name


def test_what_is_scaled_and_what_opens_the_broker_are_there() -> None:
    deployments = [each["metadata"]["name"] for each in manifests() if each["kind"] == "Deployment"]
    spec = scaled().spec
    assert spec.scale_target_ref.name in deployments
    assert 1 <= spec.min_replica_count <= spec.max_replica_count
    opening = keda.trigger_authentication(document("TriggerAuthentication"))
    (trigger,) = spec.triggers
    assert trigger.authentication_ref.name == opening.metadata.name
    (host,) = opening.spec.secret_target_ref
    assert (host.parameter, host.name) == ("host", "leveret")
    assert f"\n{host.key}=\n" in EXAMPLE.read_text(encoding="utf-8")
