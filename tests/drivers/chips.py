"""What three kinds of chip hold in their registers, as their data sheets have it.

Addresses, registers and quanta are those of LM75 (and TMP75, its sibling of 12 bits), AMC6821 and ADT7475. A chip turns
a temperature or a speed into the registers that the real one would show it in, and says what a driver makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

WORD, BYTE = 3, 2
"""Sizes of a transfer, as the kernel's `linux/i2c.h` numbers them."""


class Register(NamedTuple):
    """One register of the chip at `address`, and how wide it is."""

    address: int
    number: int
    size: int = BYTE


Writes = Sequence[tuple[Register, int]]


@dataclass(frozen=True, slots=True)
class Lm75:
    """A temperature in `bits` bits, left-justified in a word whose high byte comes first."""

    address: int
    name: str = "lm75"
    bits: int = 9

    @property
    def quantum_millicelsius(self) -> float:
        return 256_000 / (1 << self.bits)

    def power_on(self) -> Writes:
        return [(Register(self.address, 0, WORD), 0)]

    def temperature(self, millicelsius: int, index: int = 1) -> Writes:
        steps = millicelsius * (1 << self.bits) // 256_000
        steps = max(-(1 << self.bits - 1), min((1 << self.bits - 1) - 1, steps))
        word = steps << 16 - self.bits & 0xFFFF
        return [(Register(self.address, 0, WORD), word >> 8 | (word & 0xFF) << 8)]


@dataclass(frozen=True, slots=True)
class Amc6821:
    """Two temperatures of whole degrees (on the chip, remote), a fan and its duty cycle."""

    address: int
    name: str = "amc6821"
    quantum_millicelsius: float = 1_000

    def power_on(self, mode: int = 0x40, duty: int = 80) -> Writes:
        """After reset, but for fan control: by the remote temperature, at `duty`."""
        byte = self._byte
        return [byte(0x3D, 0x21), byte(0x3E, 0x49), byte(0x00, mode), byte(0x01, 0), byte(0x3F, 0x80),
                byte(0x04, 0), byte(0x22, duty), byte(0x02, 0), byte(0x03, 0), *self.speed(0),
                *self.temperature(25_000, 1), *self.temperature(25_000, 2)]  # fmt: skip

    def temperature(self, millicelsius: int, index: int = 1) -> Writes:
        return [self._byte((0x0A, 0x0B)[index - 1], max(-128, min(127, millicelsius // 1_000)) & 0xFF)]

    def speed(self, rpm: int, index: int = 1) -> Writes:
        # The driver takes 0 for a fan that stands.
        count = 0 if rpm <= 0 else min(0xFFFF, 6_000_000 // rpm)
        return [self._byte(0x08, count & 0xFF), self._byte(0x09, count >> 8)]

    def duty(self, index: int = 1) -> Register:
        return Register(self.address, 0x22)

    def mode(self, index: int = 1) -> Register:
        return Register(self.address, 0x00)

    @staticmethod
    def manual(mode: int) -> bool:
        return mode & 0x60 == 0

    def _byte(self, number: int, value: int) -> tuple[Register, int]:
        return Register(self.address, number), value


@dataclass(frozen=True, slots=True)
class Adt7475:
    """Three temperatures of quarter degrees (remote, on the chip, remote), four fans, three duty cycles."""

    address: int
    name: str = "adt7475"
    quantum_millicelsius: float = 250

    def power_on(self, mode: int = 0x02, duty: int = 80) -> Writes:
        """Monitoring, temperatures as two's complement, every fan by the first remote temperature, at `duty`."""
        byte = self._byte
        writes = [byte(0x3D, 0x75), byte(0x3E, 0x41), byte(0x3F, 0x69), byte(0x40, 0x05), byte(0x7C, 0x01),
                  byte(0x41, 0), byte(0x42, 0), byte(0x76, 0), byte(0x77, 0)]  # fmt: skip
        for index in range(3):
            writes += [byte(0x5C + index, mode), byte(0x30 + index, duty), byte(0x38 + index, 0xFF)]
            writes += [*self.speed(0, index + 1), *self.temperature(25_000, index + 1)]
        return writes

    def temperature(self, millicelsius: int, index: int = 1) -> Writes:
        quarters = max(-512, min(511, millicelsius // 250)) & 0x3FF
        # Bits that the others share are 0: temperatures between them are written by nobody.
        return [self._byte(0x25 + index - 1, quarters >> 2), self._byte(0x77, (quarters & 3) << 2 * index)]

    def speed(self, rpm: int, index: int = 1) -> Writes:
        # Slower than the counter can count is standing still, to the chip.
        count = 0xFFFF if rpm <= 0 else min(0xFFFF, 5_400_000 // rpm)
        return [self._byte(0x28 + 2 * (index - 1), count & 0xFF), self._byte(0x29 + 2 * (index - 1), count >> 8)]

    def duty(self, index: int = 1) -> Register:
        return Register(self.address, 0x30 + index - 1)

    def mode(self, index: int = 1) -> Register:
        return Register(self.address, 0x5C + index - 1)

    @staticmethod
    def manual(mode: int) -> bool:
        return mode >> 5 == 7

    def _byte(self, number: int, value: int) -> tuple[Register, int]:
        return Register(self.address, number), value
