"""Settings from the environment, prefix `LEVERET_`, read once a process."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ByteSize, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from leveret.errors import SettingError
from leveret.keys import Keyring, load_keyring
from leveret.sealing import DEFAULT_CACHE_SIZE, DEFAULT_THRESHOLD, PayloadOptions

if TYPE_CHECKING:
    from leveret_broker.tls import Tls


class Settings(BaseSettings):
    """What the environment says; arguments of functions and commands come before it."""

    model_config = SettingsConfigDict(
        env_prefix="LEVERET_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    url: SecretStr | None = None
    """The broker, `amqp://user:password@host:port/vhost`. Without one, programs run embedded."""
    project: str | None = None
    """The project of definitions and identifiers; `default` if nothing says otherwise."""
    key: SecretStr | None = None
    """Signs and verifies pickles, the same for all of a project's processes. Of several keys,
    separated by commas, the first signs and all verify."""
    ship: str | None = None
    """Modules whose code goes to the cluster with the calls, separated by commas."""
    connect_timeout: float = Field(default=8.0, gt=0)
    """Seconds to wait for the broker, and for the coordinator."""
    slots: int | None = Field(default=None, ge=1)
    """Tasks that a worker executes at a time."""
    processes: int | None = Field(default=None, ge=1)
    """Child processes in which a worker runs sync tasks."""
    state: Path | None = None
    """The folder in which the embedded runtime keeps its catalog; none keeps it in memory."""
    payload_store: str | None = None
    """The URL of the store for large payloads, the same for all of a project's processes."""
    payload_threshold: ByteSize = Field(default=ByteSize(DEFAULT_THRESHOLD), ge=0)
    """Payloads that are larger are stored."""
    payload_max: ByteSize | None = Field(default=None, gt=0)
    """Payloads that are larger can't be sent."""
    payload_cache: Path | None = None
    """The folder in which this host keeps what it has fetched from the store."""
    payload_cache_size: ByteSize = Field(default=ByteSize(DEFAULT_CACHE_SIZE), ge=0)
    """As much is kept there."""

    def keyring(self) -> Keyring | None:
        """The keys, if any. Raises `PayloadError` if one is malformed."""
        return load_keyring(self.key.get_secret_value()) if self.key is not None else None

    def payloads(self, store: str | None = None, *, durable: bool = True) -> PayloadOptions:
        """Where large payloads go: to this store, or else to that of the settings."""
        return PayloadOptions(
            store=store if store is not None else self.payload_store,
            threshold=self.payload_threshold,
            most=self.payload_max,
            cache=None if self.payload_cache is None else str(self.payload_cache),
            cache_size=self.payload_cache_size,
            durable=durable,
        )


@cache
def settings() -> Settings:
    """The process's settings; `settings.cache_clear()` makes the next call read them again.

    Raises `SettingError` naming the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "".join(str(part) for part in first["loc"]).upper()
        raise SettingError(f"LEVERET_{name}: {first['msg']}") from None


def security() -> "Tls":
    """How `amqps://` connections are made, from the variables `LEVERET_TLS_…`.

    Raises `SettingError` naming the variable.
    """
    from leveret_broker import tls

    try:
        return tls.from_environment()
    except tls.TlsProblem as error:
        raise SettingError(str(error)) from None
