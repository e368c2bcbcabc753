"""Zero-copy views of blocks that know when their block is freed.

A `memoryview` is released when its block is freed, and raises `ValueError` from then on. An array is a `BlockArray`:
a NumPy array that compares the block's generation before it is indexed, computed with, or asked by one of its methods
for its values, and raises `StaleBlockError` when it is another. Nothing can make a plain array raise that was made of
one before (`np.asarray`, `flat`, `memoryview`, `ctypes`). Either way nothing is corrupted: the block's memory waits
until the last such array is gone before it is given to anybody else.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from twin.kernels import Integers
from twin.pool.errors import StaleBlockError
from twin.pool.layout import H_GENERATION, H_WORD, USED, word_kind


class BlockArray(np.ndarray[Any, Any]):
    """An array over a block's payload that checks, before its values are used, that the block is still there."""

    _cells: Integers
    _block: int
    _generation: int

    @classmethod
    def over(cls, root: npt.NDArray[Any], cells: Integers, block: int, generation: int) -> Self:
        """The view of `root` that checks the block at cell `block`."""
        view = root.view(cls)
        view._cells, view._block, view._generation = cells, block, generation
        return view

    def __array_finalize__(self, parent: object) -> None:
        """Arrays made of this one watch the same block."""
        if isinstance(parent, BlockArray) and hasattr(parent, "_cells"):
            self._cells, self._block, self._generation = parent._cells, parent._block, parent._generation

    def _check(self) -> None:
        cells = getattr(self, "_cells", None)
        if cells is not None and not is_alive(cells, self._block, self._generation):
            raise StaleBlockError("this array is over a pool block that was freed; make a new one of a live block")

    def __getitem__(self, key: Any) -> Any:
        self._check()
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check()
        super().__setitem__(key, value)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **named: Any) -> Any:
        """Arithmetic gives plain arrays, which belong to nobody's block."""
        outputs = named.get("out", ())
        for each in (*inputs, *outputs):
            if isinstance(each, BlockArray):
                each._check()
        plain = tuple(_plain(each) for each in inputs)
        if outputs:
            named["out"] = tuple(_plain(each) for each in outputs)
        result = getattr(ufunc, method)(*plain, **named)
        return outputs[0] if len(outputs) == 1 else result

    def __array_function__(self, function: Any, types: Any, args: Any, named: Any) -> Any:
        """NumPy's functions (sum, sort, copyto, ...)."""
        self._check()
        return super().__array_function__(function, types, args, named)

    def __iter__(self) -> Any:
        self._check()
        return super().__iter__()

    def __repr__(self) -> str:
        self._check()
        return super().__repr__()


_METHODS = (
    "argsort", "astype", "copy", "dot", "dump", "dumps", "fill", "item", "nonzero", "partition", "put", "repeat",
    "searchsorted", "sort", "take", "tobytes", "tofile", "tolist",
)  # fmt: skip
"""Methods that look at values, or change them, and are not made of what is checked above."""


def _checking(name: str) -> Any:
    method = getattr(np.ndarray, name)

    @functools.wraps(method)
    def checked(self: BlockArray, *args: Any, **named: Any) -> Any:
        self._check()
        return method(self, *args, **named)

    return checked


for _name in _METHODS:
    setattr(BlockArray, _name, _checking(_name))


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, BlockArray) else value


def is_alive(cells: Integers, block: int, generation: int) -> bool:
    """Whether the block at cell `block` is used, and the one that had `generation`."""
    return bool(cells[block + H_GENERATION] == generation and word_kind(int(cells[block + H_WORD])) == USED)


class Views:
    """The views of one block that somebody in this process may still hold.

    Everything that is made of a view holds on to the array that `root` gave, which therefore tells whether any is left.
    """

    def __init__(self) -> None:
        self._memories: list[memoryview] = []
        self._roots: list[weakref.ref[npt.NDArray[np.uint8]]] = []

    def root(self, payload: memoryview) -> npt.NDArray[np.uint8]:
        """A new array over `payload`, to make one view of."""
        # Of a memoryview, because NumPy's views of a slice of an array hold on to that array and not to the slice.
        root = np.frombuffer(payload, dtype=np.uint8)
        self._roots.append(weakref.ref(root))
        return root

    def memory(self, payload: memoryview) -> memoryview:
        """A memoryview of bytes that is released with its block."""
        memory = memoryview(self.root(payload).data)
        self._memories.append(memory)
        return memory

    def release(self) -> bool:
        """Release what can be; True when nobody holds the block's memory any more."""
        held = []
        for memory in self._memories:
            try:
                memory.release()
            except BufferError:
                # An array was made of it, and goes on holding it.
                held.append(memory)
        self._memories = held
        self._roots = [root for root in self._roots if root() is not None]
        return not self._memories and not self._roots
