"""Measure the page: what being watched costs a run, how many can watch, and what those cost who take nothing.

    python benchmarks/dashboard.py [decision] [load] [slow] [ticks] [--json]

`decision`: from readings to command, of the same cycles of a run that learns, once with a page and a client at 10 Hz
and once without, in turns in one process at five times its pace; of each cycle the least of five runs counts, and what
being watched adds at a percentile is the difference of theirs.
`load`: 100 clients at 10 Hz for 20 s; the server has one processor, the clients are two processes on the others. What a
client is due is every record that is sent while it is there; how many it did not get are counted.
`slow`: 20 clients that take everything, and 1,000 that try to get in, take nothing, and come again when they are sent
away; 1,000 more say half a request. What the server's memory grows by, and what the 20 did not get.
`ticks`: how long after it was due a record is handed over, 500 times a second, to a page that is well, one that two
processes ask as fast as they can (they have its priority), one that is stopped and one that is killed; in
turns with as many ticks without a page. As above the least of four turns counts; `of_all` is what all ticks were like.
Everything goes over 127.0.0.1 and ends by itself. A bare SimPy event is measured in the same process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware.interface import Applied, Command, Readings
from twin.cli.backends import simulated
from twin.cli.benchmark import simpy_event_ns
from twin.cli.page import Page, about_run
from twin.cli.paging import listening
from twin.cli.run import warm_up
from twin.control.choose import make_controller
from twin.control.cycle import Cycle
from twin.dashboard.feed import Feed
from twin.dashboard.server import NICE
from twin.kernels import Integers
from twin.loader import load
from twin.loop import Loop
from twin.scenario import Scenario

AT_MOST = {
    "decision_adds_us_p99": 20.0,
    "load_lost": 0.0,
    "slow_memory_mb": 64.0,
    "slow_others_lost": 0.0,
    "ticks_killed_moves_ms": 1.0,
    "ticks_stopped_moves_ms": 1.0,
    "ticks_flooded_moves_ms": 1.0,
}
RUNS, CYCLES, PACE_HZ = 5, 300, 50
CLIENTS, LOAD_SECONDS, PERIOD_SECONDS = 100, 20, 0.1
SLOW, WELL, SLOW_SECONDS = 1_000, 20, 30
TURNS, TICKS, TICK_SECONDS, FLOODS = 4, 1_000, 0.002, 2
QUERY = "EIO=4&transport=websocket&token="


# The page and its feed ------------------------------------------------------------------------------------------------


@contextmanager
def page(scenario: Scenario, insight: Any = None) -> Iterator[tuple[Page, Feed]]:
    """A page of a run of `scenario`, answering, and its feed."""
    options = argparse.Namespace(port=0, bind=None, allow_remote=False, backend="simulated", machine=None)
    hardware = simulated(scenario).hardware
    with tempfile.TemporaryDirectory() as place, listening(options) as (listener, access):
        served = Page(listener, access)
        feed = served.begin(about_run(options, scenario, hardware, Path(place)), insight, Path(place, "run.log"))
        host, _, port = access.hosts[0].partition(":")
        while status(host, int(port)) != 404:
            time.sleep(0.05)
        try:
            yield served, feed
        finally:
            feed.end()
            with suppress(ProcessLookupError):
                os.kill(served.process, signal.SIGCONT)
                os.kill(served.process, signal.SIGTERM)
            with suppress(ChildProcessError):
                os.waitpid(served.process, 0)
            said = Path(place, "run.log").read_text()
            if said:
                print(said, file=sys.stderr)


def server(served: Page) -> int:
    """The process that serves; the one that the run knows only keeps it."""
    return int(Path(f"/proc/{served.process}/task/{served.process}/children").read_text().split()[0])


def status(host: str, port: int) -> int:
    """What an address without anything is answered with; 0 while nobody answers."""
    with suppress(OSError), socket.create_connection((host, port), 5) as connection:
        connection.sendall(f"GET /static/none HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        return int(connection.recv(100).split()[1])
    return 0


def request(link: str) -> tuple[str, int, bytes]:
    """Where a client goes, and what it says first."""
    address, _, token = link.removeprefix("http://").partition("/?token=")
    host, _, port = address.partition(":")
    words = (
        f"GET /socket.io/?{QUERY}{token} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    return host, int(port), words.encode()


@contextmanager
def working(target: Callable[..., None], *arguments: Sequence[Any]) -> Iterator[Any]:
    """A process for each of `arguments`, beside this one, and a queue of what they tell."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    processes = [context.Process(target=target, args=(told, *each), daemon=True) for each in arguments]
    for process in processes:
        process.start()
    try:
        yield told
    finally:
        for process in processes:
            process.terminate()
            process.join()


class Keeper:
    """A watcher that keeps the cycles."""

    def __init__(self) -> None:
        self.cycles: list[tuple[Cycle, Integers | None]] = []

    def cycle(self, cycle: Cycle, tick: Integers | None) -> None:
        """Keep it."""
        self.cycles.append((cycle, tick))


class Nothing:
    """A recorder that keeps nothing."""

    def ticks(self, captured: Integers) -> None:
        """Not kept."""

    def cycle(self, cycle: Cycle) -> None:
        """Not kept."""


def some_cycles(scenario: Scenario, count: int) -> list[tuple[Cycle, Integers | None]]:
    """Cycles of a run, with their last ticks."""
    scenario = replace(scenario, duration_ms=count * scenario.control.period_ms)
    backend, keeper = simulated(scenario), Keeper()
    controller = make_controller(scenario, backend.hardware.limits)
    Loop(backend.env, backend.hardware, scenario, controller, Nothing(), watcher=keeper).run()
    return keeper.cycles


# A client -------------------------------------------------------------------------------------------------------------


async def watch(link: str, seen: list[int], here: Callable[[], None]) -> None:
    """Be a client until the page ends: join, answer pings, and note the number of each cycle that comes."""
    host, port, words = request(link)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(words)
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in head:
        raise ConnectionError(head)
    writer.write(b"\x81\x82\0\0\0\x0040")
    while True:
        try:
            first, size = await reader.readexactly(2)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            # The page ends with its run: whatever was not seen by then counts as lost.
            return
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await reader.readexactly(8), "big")
        content = await reader.readexactly(size)
        if first == 0x88:
            raise ConnectionError("closed")
        if content == b"2":
            writer.write(b"\x81\x81\0\0\0\x003")
        elif content.startswith(b"40"):
            here()
        elif content.startswith(b'42["metrics"'):
            # Taking the whole apart would cost more than serving it.
            seen.append(int(content.partition(b'"cycle":')[2].partition(b",")[0]))


def watchers(told: Any, link: str, count: int) -> None:
    """So many clients in a process; tells when all are there, and after the last record what each has seen."""

    async def all_of_them() -> None:
        seen: list[list[int]] = [[] for _ in range(count)]
        left = count

        def here() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                told.put("here")

        tasks = [asyncio.create_task(watch(link, each, here)) for each in seen]
        done, _ = await asyncio.wait(tasks)
        told.put((seen, sorted({repr(task.exception()) for task in done if task.exception()})))

    asyncio.run(all_of_them())


def send_records(feed: Feed, cycles: Sequence[tuple[Cycle, Integers | None]], seconds: float) -> int:
    """Send a record each period, and answer how many there were."""
    begun, count = time.monotonic(), round(seconds / PERIOD_SECONDS)
    for number in range(count):
        time.sleep(max(0.0, begun + number * PERIOD_SECONDS - time.monotonic()))
        cycle, tick = cycles[number % len(cycles)]
        feed.cycle(replace(cycle, number=number), tick)
    return count


def collected(told: Any, processes: int, count: int) -> tuple[int, list[str]]:
    """How many records were lost, over all clients, and how their connections ended."""
    lost, ends = 0, []
    for _ in range(processes):
        seen, how = told.get(timeout=30)
        lost += sum(count - len({number for number in each if number < count}) for each in seen)
        ends += how
    return lost, ends


# The parts ------------------------------------------------------------------------------------------------------------


class Timed:
    """A machine that notes how long it took from the readings to the command."""

    def __init__(self, hardware: Any) -> None:
        self._hardware = hardware
        self.sensors, self.limits = hardware.sensors, hardware.limits
        self.took_us: list[float] = []

    def read(self) -> Readings:
        """The readings; time begins."""
        readings: Readings = self._hardware.read()
        self._began = time.perf_counter_ns()
        return readings

    def apply(self, command: Command) -> Applied:
        """Time is over."""
        self.took_us.append((time.perf_counter_ns() - self._began) / 1e3)
        applied: Applied = self._hardware.apply(command)
        return applied

    def close(self) -> None:
        """Close it."""
        self._hardware.close()


class Watching:
    """A feed, if there is one, and then the pace."""

    def __init__(self, feed: Feed | None) -> None:
        self._feed = feed
        self._due = time.monotonic()

    def cycle(self, cycle: Cycle, tick: Integers | None) -> None:
        """Hand on, and wait."""
        if self._feed is not None:
            self._feed.cycle(cycle, tick)
        self._due += 1 / PACE_HZ
        time.sleep(max(0.0, self._due - time.monotonic()))


def decision(scenario: Scenario) -> dict[str, float]:
    """Microseconds from readings to command, watched and alone."""
    learns = replace(
        scenario,
        duration_ms=CYCLES * scenario.control.period_ms,
        learn=replace(scenario.learn, enabled=True),
    )
    warm_up(learns, None)
    took: dict[bool, list[list[float]]] = {True: [], False: []}
    learner: list[Any] = [None]
    with page(learns, lambda: learner[0].insight()) as (served, feed), working(watchers, (served.link, 1)) as told:
        told.get(timeout=30)
        for number in range(RUNS):
            for watched in (number % 2 == 0, number % 2 == 1):
                backend = simulated(learns)
                machine = Timed(backend.hardware)
                learner[0] = make_controller(learns, machine.limits)
                Loop(
                    backend.env, machine, learns, learner[0], Nothing(), watcher=Watching(feed if watched else None)
                ).run()
                took[watched].append(machine.took_us)
    figures: dict[str, float] = {}
    for name, watched in (("watched", True), ("alone", False)):
        least = list(map(min, *took[watched]))
        figures |= {f"decision_{name}_us_p{round(100 * share)}": percentile(least, share) for share in (0.5, 0.99)}
        figures[f"decision_{name}_us_p99_of_all"] = percentile([each for run in took[watched] for each in run], 0.99)
    figures["decision_adds_us_p99"] = figures["decision_watched_us_p99"] - figures["decision_alone_us_p99"]
    figures["decision_dropped"] = float(feed.dropped)
    return figures


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def processor_seconds(process: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(process: int) -> float:
    """What a process has in memory now."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def load_of(scenario: Scenario) -> dict[str, float]:
    """A hundred clients on one processor."""
    cycles = some_cycles(scenario, 50)
    with page(scenario) as (served, feed):
        pin(server(served))
        before = memory_mb(server(served))
        with working(watchers, *[(served.link, CLIENTS // 2)] * 2) as told:
            for _ in range(2):
                assert told.get(timeout=60) == "here"
            used, began = processor_seconds(server(served)), time.monotonic()
            count = send_records(feed, cycles, LOAD_SECONDS)
            share = (processor_seconds(server(served)) - used) / (time.monotonic() - began)
            memory = memory_mb(server(served)) - before
            feed.end()
            lost, ends = collected(told, 2, count)
    if ends:
        print(f"load: connections ended with {ends}", file=sys.stderr)
    return {
        "load_due": float(count * CLIENTS),
        "load_lost": float(lost),
        "load_dropped_by_feed": float(feed.dropped),
        "load_processor_share": share,
        "load_memory_mb": memory,
    }


def pin(process: int) -> None:
    """Give a process, with all its threads, one processor."""
    first = min(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{process}/task").iterdir():
        # One that answers may just have ended.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {first})


def takers(told: Any, link: str, count: int, half: bool) -> None:
    """So many clients that take nothing, and come again when they are sent away; with `half`, that say half a word."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, port, words = request(link)
    there: dict[int, socket.socket] = {}
    told.put("here")
    while True:
        while len(there) < count:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(1.0)
            try:
                connection.connect((host, port))
                connection.sendall(words[:60] if half else words)
                if not half and b" 101 " in connection.recv(500):
                    connection.sendall(b"\x81\x82\0\0\0\x0040")
            except OSError:
                connection.close()
                break
            connection.setblocking(False)
            there[connection.fileno()] = connection
        # Whoever was sent away is seen by a connection that has ended; what came before that stays where it is.
        for number, connection in list(there.items()):
            try:
                ended = connection.recv(1, socket.MSG_PEEK) == b""
            except BlockingIOError:
                ended = False
            except OSError:
                ended = True
            if ended or not_open(connection):
                connection.close()
                del there[number]
        time.sleep(0.02)


def not_open(connection: socket.socket) -> bool:
    """Whether the other side has closed, whatever still lies in between (it is not ESTABLISHED)."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\x01"


def slow(scenario: Scenario) -> dict[str, float]:
    """A thousand that take nothing, a thousand that say half a word, and a few that are well."""
    cycles = some_cycles(scenario, 50)
    with page(scenario) as (served, feed), working(watchers, (served.link, WELL)) as told:
        assert told.get(timeout=60) == "here"
        send_records(feed, cycles, 1)
        before = memory_mb(server(served))
        with working(takers, (served.link, SLOW, False), (served.link, SLOW, True)) as started:
            for _ in range(2):
                started.get(timeout=60)
            most, used, began = before, processor_seconds(server(served)), time.monotonic()
            count = 0
            while time.monotonic() - began < SLOW_SECONDS:
                cycle, tick = cycles[count % len(cycles)]
                # After those of before, which have numbers too.
                feed.cycle(replace(cycle, number=100 + count), tick)
                count += 1
                most = max(most, memory_mb(server(served)))
                time.sleep(max(0.0, began + count * PERIOD_SECONDS - time.monotonic()))
            share = (processor_seconds(server(served)) - used) / (time.monotonic() - began)
            threads = len(list(Path(f"/proc/{server(served)}/task").iterdir()))
        feed.end()
        seen, ends = told.get(timeout=30)
    lost = sum(count - len({number for number in each if number >= 100}) for each in seen)
    if ends:
        print(f"slow: well clients ended with {ends}", file=sys.stderr)
    return {
        "slow_memory_mb": most - before,
        "slow_others_due": float(count * WELL),
        "slow_others_lost": float(lost),
        "slow_processor_share": share,
        "slow_threads": float(threads),
    }


def flood(told: Any, link: str) -> None:
    """Ask as fast as can be, for ever. Whoever floods wants to hurt the page, and has no more rights than it."""
    address, _, token = link.removeprefix("http://").partition("/?token=")
    host, _, port = address.partition(":")
    words = f"GET /api/metrics/history?n=300&token={token} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    os.nice(NICE)
    told.put(os.getpid())
    while True:
        with suppress(OSError), socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(words)
            while connection.recv(65_536):
                pass


def ticks(scenario: Scenario) -> dict[str, float]:
    """How late a tick is done, whatever the page is like; each beside ticks of the same moments without a page."""
    cycles = some_cycles(scenario, 50)
    figures: dict[str, float] = {}

    def measured(name: str, feed: Feed, busy: Sequence[int] = ()) -> None:
        late: dict[bool, list[list[float]]] = {False: [], True: []}
        for number in range(2 * TURNS):
            watched = number % 2 == 1
            for process in busy:
                os.kill(process, signal.SIGCONT if watched else signal.SIGSTOP)
            late[watched].append(handed_over(feed if watched else None, cycles))
        for words, watched in (("alone_", False), ("", True)):
            whole = [each for turn in late[watched] for each in turn]
            figures[f"ticks_{name}_{words}ms_p999_of_all"] = percentile(whole, 0.999)
            figures[f"ticks_{name}_{words}ms_p999"] = percentile(list(map(min, *late[watched])), 0.999)
        figures[f"ticks_{name}_moves_ms"] = figures[f"ticks_{name}_ms_p999"] - figures[f"ticks_{name}_alone_ms_p999"]

    with page(scenario) as (served, feed):
        measured("watched", feed)
        with working(flood, *[(served.link,)] * FLOODS) as told:
            measured("flooded", feed, [told.get(timeout=60) for _ in range(FLOODS)])
        os.kill(server(served), signal.SIGSTOP)
        measured("stopped", feed)
        os.kill(served.process, signal.SIGKILL)
        measured("killed", feed)
    return figures


def handed_over(feed: Feed | None, cycles: Sequence[tuple[Cycle, Integers | None]]) -> list[float]:
    """Milliseconds after they were due until records were handed over."""
    late_ms, begun = [], time.monotonic()
    for number in range(TICKS):
        due = begun + number * TICK_SECONDS
        time.sleep(max(0.0, due - time.monotonic()))
        if feed is not None:
            feed.cycle(*cycles[number % len(cycles)])
        late_ms.append(1e3 * (time.monotonic() - due))
    return late_ms


def main() -> int:
    """Print a line for each figure, beside its bar."""
    parts: dict[str, Callable[[Scenario], dict[str, float]]] = {
        "decision": decision, "load": load_of, "slow": slow, "ticks": ticks,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", nargs="*", choices=[*parts, []], help="default: all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    scenario = load("gaming")
    figures = {"simpy_event_ns": simpy_event_ns()}
    for name, part in parts.items():
        if not options.part or name in options.part:
            figures |= part(scenario)
    if options.json:
        print(json.dumps(figures))
    missed = 0
    for name, value in figures.items():
        bar = AT_MOST.get(name)
        kept = bar is None or value <= bar
        missed += not kept
        if not options.json:
            said = "" if bar is None else f"bar {bar:9,.3f}  {'kept' if kept else 'MISSED'}"
            print(f"{name:32} {value:12,.3f}  {said}".rstrip())
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
