"""KEDA's resources, as far as its documentation describes what we use.

KEDA's own schemas are in no package that could be used here, so these models are written after
https://keda.sh/docs/latest/reference/scaledobject-spec/ and .../scalers/rabbitmq-queue/. What KEDA
hands on to Kubernetes, the `behavior`, is checked by Kubernetes' schema.
"""

from typing import Any, Literal

import kubernetes_validate
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tests.deploy.files import Document


class Model(BaseModel):
    """Fields have KEDA's names, all are known, and none is converted."""

    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=to_camel, validate_by_name=False
    )


class Metadata(Model):
    name: str
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}


class Named(Model):
    name: str


class ScaleTarget(Model):
    api_version: str = "apps/v1"
    kind: str = "Deployment"
    name: str
    env_source_container_name: str | None = None


class AutoscalerConfig(Model):
    name: str | None = None
    behavior: dict[str, Any]
    """Kubernetes' own, see `autoscaler`."""


class Advanced(Model):
    restore_to_original_replica_count: bool = False
    horizontal_pod_autoscaler_config: AutoscalerConfig


class RabbitQueues(Model):
    """The metadata of a trigger of the type `rabbitmq`. All values are texts."""

    protocol: Literal["auto", "amqp", "http"] = "auto"
    mode: Literal["QueueLength", "MessageRate"]
    value: str
    activation_value: str = "0"
    queue_name: str
    vhost_name: str | None = None
    use_regex: Literal["true", "false"] = "false"
    page_size: str = "100"
    operation: Literal["sum", "max", "avg"] = "sum"
    exclude_unacknowledged: Literal["true", "false"] = "false"
    unsafe_ssl: Literal["true", "false"] = "false"
    timeout: str | None = None


class Trigger(Model):
    type: Literal["rabbitmq"]
    metadata: RabbitQueues
    name: str | None = None
    use_cached_metrics: bool = False
    authentication_ref: Named


class ScaledObjectSpec(Model):
    scale_target_ref: ScaleTarget
    polling_interval: int = Field(default=30, gt=0)
    cooldown_period: int = Field(default=300, ge=0)
    initial_cooldown_period: int = Field(default=0, ge=0)
    min_replica_count: int = Field(default=0, ge=0)
    max_replica_count: int = Field(default=100, ge=1)
    advanced: Advanced
    triggers: list[Trigger] = Field(min_length=1)


class ScaledObject(Model):
    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


class SecretTarget(Model):
    parameter: Literal["host", "username", "password", "tls", "ca", "cert", "key"]
    name: str
    key: str


class TriggerAuthenticationSpec(Model):
    secret_target_ref: list[SecretTarget] = Field(min_length=1)


class TriggerAuthentication(Model):
    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["TriggerAuthentication"]
    metadata: Metadata
    spec: TriggerAuthenticationSpec


def scaled_object(document: Document) -> ScaledObject:
    """Raises `ValidationError`, of pydantic or of kubernetes_validate."""
    found = ScaledObject.model_validate(document)
    kubernetes_validate.validate(autoscaler(found), kubernetes_validate.latest_version(), True)
    return found


def trigger_authentication(document: Document) -> TriggerAuthentication:
    """Raises `ValidationError`."""
    return TriggerAuthentication.model_validate(document)


def autoscaler(scaled: ScaledObject) -> Document:
    """What KEDA makes of it for Kubernetes, as far as it is told to."""
    spec = scaled.spec
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": f"keda-hpa-{scaled.metadata.name}"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": spec.scale_target_ref.api_version,
                "kind": spec.scale_target_ref.kind,
                "name": spec.scale_target_ref.name,
            },
            "minReplicas": max(1, spec.min_replica_count),
            "maxReplicas": spec.max_replica_count,
            "behavior": spec.advanced.horizontal_pod_autoscaler_config.behavior,
        },
    }
