"""An adaptive binary range coder: LZMA's arithmetic (11-bit probabilities, 32-bit range) with models of our own.

Integers only, so that every machine writes and reads the same bytes. The end of the stream is cut to the bytes that
are needed; a reader takes zeros beyond it, and never fails: any bytes say some bits.
"""

from __future__ import annotations

ONE = 1 << 11
"""A probability of 1."""
RATE = 4
"""A model moves by 1/16 of its error a bit: a memory is a few thousand symbols long (LZMA, with more, takes 1/32)."""
_TOP = 1 << 24
_WORD = (1 << 32) - 1


class Model:
    """Probabilities that the next bit is 0, one a context."""

    __slots__ = ("zeros",)

    def __init__(self, contexts: int) -> None:
        self.zeros = [ONE // 2] * contexts


class Writer:
    def __init__(self) -> None:
        self._low, self._range, self._out = 0, _WORD, bytearray()

    def bit(self, model: Model, context: int, bit: int) -> None:
        zero = model.zeros[context]
        bound = (self._range >> 11) * zero
        if bit:
            self._add(bound)
            self._range -= bound
            model.zeros[context] = zero - (zero >> RATE)
        else:
            self._range = bound
            model.zeros[context] = zero + ((ONE - zero) >> RATE)
        self._normalise()

    def even(self, value: int, bits: int) -> None:
        """So many bits that no model knows, the most significant first."""
        for place in range(bits - 1, -1, -1):
            self._range >>= 1
            if value >> place & 1:
                self._add(self._range)
            self._normalise()

    def finish(self) -> bytes:
        """The shortest bytes that say what was written."""
        for places in (24, 16, 8):
            short = (self._low + (1 << places) - 1) >> places << places  # the next number that ends in zeros
            if short < self._low + self._range:
                self._add(short - self._low)
                break
        self._out += self._low.to_bytes(4, "big")
        return bytes(self._out).rstrip(b"\0")

    def _add(self, amount: int) -> None:
        self._low += amount
        if self._low > _WORD:
            self._low &= _WORD
            at = len(self._out) - 1
            while self._out[at] == 255:
                self._out[at] = 0
                at -= 1
            self._out[at] += 1

    def _normalise(self) -> None:
        while self._range < _TOP:
            self._out.append(self._low >> 24)
            self._low = self._low << 8 & _WORD
            self._range <<= 8


class Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._range = data, 4, _WORD
        self._code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def bit(self, model: Model, context: int) -> int:
        zero = model.zeros[context]
        bound = (self._range >> 11) * zero
        if self._code < bound:
            self._range = bound
            model.zeros[context] = zero + ((ONE - zero) >> RATE)
            found = 0
        else:
            self._code -= bound
            self._range -= bound
            model.zeros[context] = zero - (zero >> RATE)
            found = 1
        self._normalise()
        return found

    def even(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            self._range >>= 1
            bit = self._code >= self._range
            self._code -= self._range * bit
            value = 2 * value + bit
            self._normalise()
        return value

    def _normalise(self) -> None:
        while self._range < _TOP:
            byte = self._data[self._at] if self._at < len(self._data) else 0
            self._at += 1
            self._code = (self._code << 8 | byte) & _WORD
            self._range <<= 8


def write_tree(writer: Writer, model: Model, base: int, value: int, bits: int) -> None:
    """A number of so many bits, each in the context of those before it; takes 2^bits contexts from `base` on."""
    node = 1
    for place in range(bits - 1, -1, -1):
        bit = value >> place & 1
        writer.bit(model, base + node, bit)
        node = 2 * node + bit


def read_tree(reader: Reader, model: Model, base: int, bits: int) -> int:
    node = 1
    for _ in range(bits):
        node = 2 * node + reader.bit(model, base + node)
    return node - (1 << bits)
