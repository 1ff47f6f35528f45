"""Settings from the environment, prefix `LEVERET_`, read once a process."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ByteSize, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from leveret.errors import SettingError
from leveret.keys import Keyring, load_key_file, load_keyring
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
    """Signs and verifies payloads, the same for all of a project's processes. Of several keys,
    separated by commas, the first signs and all verify."""
    key_file: Path | None = None
    """A file with the keys in place of that, one a line."""
    encrypt: bool = False
    """Whether all payloads that this process makes are encrypted."""
    accept_unsigned: bool = False
    """Whether a process with a key reads plain values that nobody signed, as one without does."""
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

    def keyring(self, text: str | None = None) -> Keyring | None:
        """The keys in a text, or else those of the settings, if any.

        Raises `PayloadError` if one is malformed, and `SettingError` if there is no key to encrypt
        with, two places to find one, or a file that can't be used.
        """
        keys = self.keys(text)
        if self.encrypt and keys is None:
            raise SettingError(
                "LEVERET_ENCRYPT is set and there is no key to encrypt with: make one with "
                "`leveret key new`, and set LEVERET_KEY or LEVERET_KEY_FILE"
            )
        return keys

    def keys(self, text: str | None = None) -> Keyring | None:
        """The same where there need not be a key."""
        if self.encrypt and self.accept_unsigned:
            raise SettingError(
                "LEVERET_ENCRYPT and LEVERET_ACCEPT_UNSIGNED contradict each other: where "
                "everything is encrypted, everything is signed"
            )
        if text is None and self.key is not None and self.key_file is not None:
            raise SettingError("LEVERET_KEY and LEVERET_KEY_FILE are both set: set one of them")
        if text is None and self.key_file is not None:
            keys: Keyring | None = load_key_file(self.key_file)
        elif text is None:
            keys = None if self.key is None else load_keyring(self.key.get_secret_value())
        else:
            keys = load_keyring(text)
        if keys is None:
            return None
        return replace(keys, encrypts=self.encrypt, accepts_unsigned=self.accept_unsigned)

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
