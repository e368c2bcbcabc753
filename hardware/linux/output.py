"""An output as plain data: the files that take it, in which order they are written, and how all of it is given back.

The process that finds an output describes it, and the one that writes it makes it again from the description and
believes none of it: types and ranges here, and paths at every access (`sysfs.Root`). Integers are in the files' units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hardware.linux.cells import Cell, Readable
from hardware.linux.sysfs import FileCell, Root

MOST = 10**18 - 1
"""The largest number that a file may show or take."""

LANES = 1_024
"""As many files as one output may have: a clock has one for each group of cores."""

SETTLE_NS = (100_000_000, 10_000_000_000)
"""How soon, and how late, an output may show what was written."""


class Lane(NamedTuple):
    """One file that takes the value, from `low` to `high`, and the files that have to be right for it.

    `mode` is brought to `manual` before; `full` is its value for full speed, if it has one. `floor` may not be above
    the value, and is lowered first. `blind` files show their value in manual mode only.
    """

    value: Cell
    low: int = -MOST
    high: int = MOST
    mode: Cell | None = None
    manual: int = 1
    full: int | None = None
    floor: Cell | None = None
    blind: bool = False

    def inside(self, raw: int) -> int:
        """`raw`, or the nearest that the file takes."""
        return min(self.high, max(self.low, raw))


class Output(NamedTuple):
    """One output. `cooler` is 1 where more cools more, as of a fan, and -1 where less does, as of a cap.

    `tach` shows how fast the fan turns. `settle_ns` is how long the files may go on showing what they showed before. Of
    an `unseen` output nobody can tell what was set before, and what is given back is that nothing is.
    """

    where: str
    lanes: tuple[Lane, ...]
    cooler: int = -1
    tach: Readable | None = None
    settle_ns: int = 500_000_000
    unseen: bool = False

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every file that is ever written, in the order in which they are given back: values, floors, modes."""
        floors = (lane.floor for lane in self.lanes)
        modes = (lane.mode for lane in self.lanes)
        return (*(lane.value for lane in self.lanes), *(cell for cell in (*floors, *modes) if cell is not None))

    def device(self, root: Root) -> str:
        """The name of the device whose folder has the output; empty where there is none."""
        return root.read_word(getattr(self.cells[0], "path", "").rpartition("/")[0] + "/name")

    def inside(self, raw: int) -> int:
        """`raw`, or the nearest that one of the files takes."""
        return max(lane.inside(raw) for lane in self.lanes)

    def plan(self, raw: int, entering: bool = True) -> tuple[tuple[Cell, int], ...]:
        """The writes that bring `raw` into force, in order; modes only when `entering`."""
        writes: list[tuple[Cell, int]] = []
        for lane in self.lanes:
            value = lane.inside(raw)
            if lane.mode is not None and entering:
                writes.append((lane.mode, lane.manual))
            lowest = None if lane.floor is None else lane.floor.read().value
            if lane.floor is not None and lowest is not None and lowest > value:
                writes.append((lane.floor, value))
            writes.append((lane.value, value))
        return tuple(writes)

    def originals(self) -> tuple[int | None, ...] | str:
        """What every file shows now, to be given back; or the reason why something could not be.

        None is a value that is not shown unless the mode is manual, which it is not: giving back the mode will do.
        """
        hidden = {id(lane.value) for lane in self.lanes if lane.blind and lane.mode is not None
                  and lane.mode.read().value not in (None, lane.manual)}  # fmt: skip
        found: list[int | None] = []
        for cell in self.cells:
            outcome = cell.read()
            if outcome.value is None and id(cell) not in hidden:
                return outcome.detail
            found.append(outcome.value)
        return tuple(found)

    def kept(self, shown: Sequence[int | None], safe: int) -> tuple[int | None, ...]:
        """The originals to give back where this is `shown`: of a fan in manual mode full cooling.

        Whoever has set it is not there to look after it, and a machine may get hot.
        """
        modes = dict(zip(map(id, self.cells), shown, strict=True))
        left = {id(lane.value): lane.inside(max(safe, modes[id(lane.value)] or 0)) for lane in self.lanes
                if self.cooler > 0 and lane.mode is not None and modes[id(lane.mode)] == lane.manual}  # fmt: skip
        return tuple(left.get(id(cell), raw) for cell, raw in zip(self.cells, shown, strict=True))

    def rehearse(self, originals: Sequence[int | None], safe: int) -> tuple[tuple[int | None, ...], str]:
        """Go the way back: from manual mode, at full cooling, where the original mode is another one, else from here.

        As `give_back`, but that what fails is left as it is, and what was not changed need not change back to be seen.
        """
        modes = dict(zip(map(id, self.cells), originals, strict=True))
        automatic = tuple(lane for lane in self.lanes if lane.mode is not None and modes[id(lane.mode)] != lane.manual)
        why = "; ".join(outcome.detail for lane in automatic if lane.mode is not None
                        and (outcome := lane.mode.write(lane.manual)).value is None)  # fmt: skip
        for cell, value in () if why else self._replace(lanes=automatic).plan(safe, entering=False):
            cell.write(value)
        entered = {id(lane.mode) for lane in automatic}
        before, failed = self.give_back(originals, None)
        seen = (raw if id(cell) in entered else None for cell, raw in zip(self.cells, before, strict=True))
        return tuple(seen), why or failed

    def give_back(self, originals: Sequence[int | None], safe: int | None) -> tuple[tuple[int | None, ...], str]:
        """Write the originals, and `safe`, if there is one, where that fails; go on whatever fails.

        Returns what was shown before, for `differs`, and what failed, or nothing.
        """
        modes = dict(zip(map(id, self.cells), originals, strict=True))
        before = tuple(cell.read().value for cell in self.cells)
        shown = dict(zip(map(id, self.cells), before, strict=True))
        # Where the mode is back already, the value is the firmware's.
        done = {id(lane.value) for lane in self.lanes
                if lane.mode is not None and lane.manual != modes[id(lane.mode)] == shown[id(lane.mode)]}  # fmt: skip
        failed = [(cell, value) for cell, value in zip(self.cells, originals, strict=True)
                  if value is not None and id(cell) not in done and cell.write(value).value is None]  # fmt: skip
        # One file may have had to wait for another, as the highest clock for the lowest.
        outcomes = [outcome for cell, value in failed if (outcome := cell.write(value)).value is None]
        if outcomes and safe is not None:
            self.cool(safe)
        return before, "; ".join(outcome.detail for outcome in outcomes)

    def differs(self, originals: Sequence[int | None], before: Sequence[int | None], late: bool) -> str:
        """What does not show that it was given back, or nothing.

        What is shown may be old, and says something only where it is not what was shown `before`, until it is `late`.
        What is neither original nor what was shown before is somebody else's, who looks after it, as the kernel does
        after cooling devices; of a fan in manual mode only what cools more.
        """
        modes = dict(zip(map(id, self.cells), originals, strict=True))
        lanes = {id(lane.value): lane for lane in self.lanes}
        free = {id(cell) for lane in self.lanes for cell in (lane.floor, None if lane.mode else lane.value)}
        said = []
        for cell, original, was in zip(self.cells, originals, before, strict=True):
            lane = lanes.get(id(cell))
            automatic = lane is not None and lane.mode is not None and modes[id(lane.mode)] != lane.manual
            if original is None or automatic:
                continue
            shown, _status, detail = cell.read()
            if shown is None:
                said.append(detail)
                continue
            # Devices round to what they can do.
            play = 0 if lane is None else min(lane.high - lane.low, max(255, abs(original))) // 16
            theirs = shown != was and (id(cell) in free or (lane is not None and (shown - original) * self.cooler > 0))
            if not (abs(shown - original) <= play or theirs) or (shown == was and not late):
                said.append(f"{cell.where} shows {shown} and not {original}, which was written")
        return "; ".join(said)

    def cool(self, safe: int) -> str:
        """Bring `safe` into force as far as that can be done; what failed, or nothing."""
        failed = []
        for lane in self.lanes:
            single = self._replace(lanes=(lane,))
            outcomes = [cell.write(value) for cell, value in single.plan(safe)]
            if outcomes[-1].value is None and lane.mode is not None and lane.full is not None:
                outcomes = [lane.mode.write(lane.full)]
            failed += [outcome.detail for outcome in outcomes if outcome.value is None]
        return "; ".join(failed)


Place = tuple[str, tuple[int, int] | None]
"""Which file of which device: its path without the root, and its folder's identity."""


def place(cell: Cell) -> Place:
    """What tells a cell from every other."""
    return cell.where, getattr(cell, "identity", None)


def rebuilt(root: Root, described: object, library: Callable[[str], Cell]) -> Output:
    """The output that was described. `library` gives a place that is no file by its name.

    Raises ValueError, which names what is wrong, for anything but a whole description; a path is judged when it is
    used.
    """
    table = checked(described, "output", dict)
    lanes = checked(table.get("lanes"), "lanes", list)
    if not 1 <= len(lanes) <= LANES:
        raise ValueError(f"{len(lanes)} lanes; allowed are 1 to {LANES}")
    cooler = integer(table, "cooler", -1, 1)
    if cooler == 0:
        raise ValueError("cooler is 0; allowed are -1 and 1")
    made = tuple(_lane(root, checked(lane, "lane", dict), library) for lane in lanes)
    where, settle_ns = checked(table.get("where"), "where", str), integer(table, "settle_ns", *SETTLE_NS)
    unseen = checked(table.get("unseen"), "unseen", bool)
    return Output(where, made, cooler, _cell(root, table, "tach", library), settle_ns, unseen)


def _lane(root: Root, table: dict[str, Any], library: Callable[[str], Cell]) -> Lane:
    value = _cell(root, table, "value", library)
    low, high = integer(table, "low", -MOST, MOST), integer(table, "high", -MOST, MOST)
    if value is None or low > high:
        raise ValueError(f"a lane from {low} to {high} at {table.get('value')!r} is none")
    mode, floor = _cell(root, table, "mode", library), _cell(root, table, "floor", library)
    full = None if table.get("full") is None else integer(table, "full", 0, 255)
    blind = checked(table.get("blind"), "blind", bool)
    return Lane(value, low, high, mode, integer(table, "manual", 0, 255), full, floor, blind)


def _cell(root: Root, table: dict[str, Any], key: str, library: Callable[[str], Cell]) -> Cell | None:
    if table.get(key) is None:
        return None
    place = checked(table[key], key, dict)
    if "library" in place:
        return library(checked(place["library"], "library", str))
    path, identity = checked(place.get("path"), "path", str), checked(place.get("identity"), "identity", list)
    if "\0" in path or len(identity) != 2 or any(type(number) is not int for number in identity):
        raise ValueError(f"{key} is {place!r}; a path and two numbers are needed")
    return FileCell(root, path, identity=(identity[0], identity[1]))


def checked(value: object, key: str, kind: type) -> Any:
    """`value`, if it is a `kind`. Raises ValueError."""
    if type(value) is not kind:
        raise ValueError(f"{key} is {str(value)[:80]!r}; a {kind.__name__} is needed")
    return value


def integer(table: dict[str, Any], key: str, low: int, high: int) -> int:
    """The integer under `key` from `low` to `high`. Raises ValueError."""
    value = table.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} is {str(value)[:80]}; allowed is an int from {low} to {high}")
    return value
