"""The keys of a project: what signs the payloads that only its members may make."""

import base64
import hashlib
import secrets
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from leveret.errors import KeyFileWarning, PayloadError, SettingError

SHORTEST, LONGEST = 32, 64
"""Bytes of a key: as many as a signature has, and as many as BLAKE2b takes."""
_ADVICE = "make one with `leveret key new`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The keys that a process has. Where there is none, `None` stands in place of a keyring."""

    keys: tuple[bytes, ...] = field(repr=False)
    """The first one signs, all of them verify: so a key is replaced while both are in use."""
    encrypts: bool = False
    """Whether everything that this process seals is to be encrypted."""
    accepts_unsigned: bool = False
    """Whether plain values that nobody signed are read all the same."""

    @property
    def signing(self) -> bytes:
        return self.keys[0]

    def find(self, id_: bytes) -> bytes | None:
        """The key with this id, if it is here."""
        return next((key for key in self.keys if key_id(key) == id_), None)


def key_id(key: bytes) -> bytes:
    """Four bytes by which a key is known, and which tell nothing of it."""
    return hashlib.blake2b(key, digest_size=4, person=b"leveret key id").digest()


def new_key() -> str:
    """A new key as text for LEVERET_KEY."""
    return base64.urlsafe_b64encode(secrets.token_bytes(SHORTEST)).decode().rstrip("=")


def load_key(text: str) -> bytes:
    """The key in a text that `new_key` made. Raises `PayloadError`, which never shows the text."""
    stripped = text.strip().rstrip("=")
    try:
        key = base64.b64decode(stripped + "=" * (-len(stripped) % 4), b"-_", validate=True)
    except ValueError as error:  # binascii's, and that of letters beyond ASCII
        raise PayloadError(f"the key is malformed: {_ADVICE}") from error
    if not SHORTEST <= len(key) <= LONGEST:
        raise PayloadError(
            f"the key has {len(key)} bytes, and {SHORTEST} to {LONGEST} are allowed: {_ADVICE}"
        )
    return key


def load_key_file(path: Path) -> Keyring:
    """The keyring in a file: one key a line, blank lines and those that begin with `#` aside.

    Raises `SettingError` if it can't be read, or if others may change it; warns if others may read
    it.
    """
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"LEVERET_KEY_FILE {path} can't be read: {error}") from error
    if mode & stat.S_IWOTH:
        raise SettingError(
            f"LEVERET_KEY_FILE {path} can be changed by everybody on this machine, who could put "
            "a key of their own into it: chmod 600 it, and make a new key"
        )
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        warnings.warn(
            f"LEVERET_KEY_FILE {path} can be read by others on this machine: chmod 600 it",
            KeyFileWarning,
            stacklevel=2,
        )
    lines = [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]
    if not lines:
        raise SettingError(f"LEVERET_KEY_FILE {path} holds no key: {_ADVICE}")
    return Keyring(keys=tuple(map(load_key, lines)))


def load_keyring(text: str) -> Keyring:
    """The keyring in the text of LEVERET_KEY. Raises `PayloadError`, which never shows the text."""
    return Keyring(keys=tuple(map(load_key, text.split(","))))
