"""Random draws that depend on names alone: (seed, image id), and the member where members must differ."""

import hashlib

import torch


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any parts (numbers, names), the same in every process and on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by ``seed_of(*parts)``: draws on the CPU are the same whatever the device."""
    return torch.Generator().manual_seed(seed_of(*parts))
