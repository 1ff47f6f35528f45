"""Payloads that only holders of the key can read: AES-256 in GCM.

Prelude and body are encrypted by a key of their own: derived from the project's key, 32 random
bytes, and nothing else, so no nonce can meet a second message. What they are for is bound to them
by the signature over all of it, which is verified first. A buffer is encrypted by a key derived
from the project's key and the buffer's content: equal buffers stay equal, and are stored once,
while to everybody else they say no more than that.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence

from leveret.buffers import BytesLike
from leveret.errors import PayloadError

SALT = 32
TAG = 16
_CHUNK = 64 * 1024 * 1024
"""Bytes of a buffer that are encrypted at a time; one piece could have two gigabytes at most."""


def encrypted(parts: Iterable[BytesLike], *, key: bytes) -> tuple[bytes, list[bytes]]:
    """A fresh salt, and each part encrypted by it."""
    salt = secrets.token_bytes(SALT)
    cipher = _cipher(key, b"leveret encrypt", salt)
    return salt, [cipher.encrypt(_nonce(n), part) for n, part in enumerate(parts)]


def decrypted(parts: Iterable[BytesLike], *, key: bytes, salt: bytes) -> list[bytes]:
    """What `encrypted` was given. Raises `PayloadError` for anything else."""
    cipher = _cipher(key, b"leveret encrypt", salt)
    return [_opened(cipher, n, part) for n, part in enumerate(parts)]


def encrypted_buffer(buffer: memoryview, *, key: bytes, digest: bytes) -> memoryview:
    """The encrypted buffer, the same for the same key and content."""
    cipher = _cipher(key, b"leveret buffers", digest)
    starts: Sequence[int] = range(0, len(buffer), _CHUNK)
    target = bytearray(len(buffer) + TAG * len(starts))
    for number, start in enumerate(starts):
        part = cipher.encrypt(_nonce(number), buffer[start : start + _CHUNK])
        at = number * (_CHUNK + TAG)
        target[at : at + len(part)] = part
    return memoryview(target).toreadonly()


def decrypted_buffer(data: memoryview, *, key: bytes, digest: bytes) -> memoryview:
    """The buffer with this digest, writable. Raises `PayloadError` for anything else."""
    cipher = _cipher(key, b"leveret buffers", digest)
    starts: Sequence[int] = range(0, len(data), _CHUNK + TAG)
    buffer = bytearray(len(data) - TAG * len(starts))
    for number, start in enumerate(starts):
        part = _opened(cipher, number, data[start : start + _CHUNK + TAG])
        buffer[number * _CHUNK : number * _CHUNK + len(part)] = part
    return memoryview(buffer)


class _Cipher:
    """AES-GCM, imported only where something is encrypted."""

    def __init__(self, key: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aead = AESGCM(key)
        self.invalid = InvalidTag

    def encrypt(self, nonce: bytes, data: BytesLike) -> bytes:
        return self._aead.encrypt(nonce, data, None)

    def decrypt(self, nonce: bytes, data: BytesLike) -> bytes:
        return self._aead.decrypt(nonce, data, None)


def _opened(cipher: _Cipher, number: int, data: BytesLike) -> bytes:
    try:
        return cipher.decrypt(_nonce(number), data)
    except cipher.invalid as error:
        raise PayloadError("damaged (a part of it can't be decrypted)") from error


def _cipher(key: bytes, purpose: bytes, salt: bytes) -> _Cipher:
    return _Cipher(hashlib.blake2b(salt, key=key, digest_size=32, person=purpose).digest())


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
