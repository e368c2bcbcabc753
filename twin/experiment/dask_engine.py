"""Jobs on a Dask cluster: one that is there already, or one of this machine."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from twin.experiment.engines import Batch, EngineError, batch_done
from twin.experiment.jobs import Outcome, Perform

CONNECT_SECONDS = 10
"""So long the scheduler may take to answer, and workers to come."""
SCHEMES = ("tcp", "tls", "ws", "wss")
"""What an address of a scheduler may begin with."""
_MEND = "what was done is saved, run the same command again to go on"


class DaskEngine:
    """Does jobs on the cluster whose scheduler is at `address`, or on a local one of `workers` processes."""

    def __init__(self, address: str | None, workers: int) -> None:
        """Raises `EngineError` when Dask is not installed."""
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise EngineError(
                "--engine dask needs the extra `cluster`, which is not installed; pip install 'pulsetwin[cluster]'"
            ) from error
        self._address = address
        self._workers = workers

    def outcomes(self, perform: Perform, batches: Iterator[Batch]) -> Generator[list[Outcome]]:
        """As `Engine.outcomes`. Raises `EngineError` when the scheduler is not there, or goes away."""
        # What Dask says of a scheduler that goes away, page after page, is said below in a sentence.
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        from distributed import Client, LocalCluster
        from distributed.comm.core import CommClosedError

        cluster: Any = None
        if self._address is None:
            cluster = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=self._workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
            )
        else:
            # A client that cannot connect tries again while it is thrown away, and complains: so ask before.
            _see_scheduler(self._address)
        try:
            try:
                client = Client(cluster or self._address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
            except (OSError, TimeoutError, ValueError, CommClosedError) as error:
                raise _silent(self._address, error) from error
            with client:
                try:
                    client.wait_for_workers(1, timeout=CONNECT_SECONDS)
                except TimeoutError as error:
                    raise EngineError(
                        f"{self._where()} has no workers, and none came within {CONNECT_SECONDS} seconds; start some "
                        f"(dask worker {self._address or 'ADDRESS'}), and run the same command again"
                    ) from error
                yield from self._all(client, perform, batches)
        finally:
            if cluster is not None:
                cluster.close(timeout=10)

    def _where(self) -> str:
        return "the Dask cluster of this machine" if self._address is None else f"--scheduler {self._address}: it"

    def _all(self, client: Any, perform: Perform, batches: Iterator[Batch]) -> Iterator[list[Outcome]]:
        from asyncio import CancelledError as AsyncCancelledError
        from concurrent.futures import CancelledError

        from distributed import wait
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        def submitted(batch: Batch) -> Any:
            # A batch is never two futures, even where Dask would know the result of an equal one.
            return client.submit(batch_done, perform, batch, pure=False)

        alone = False
        try:
            ahead = 2 * max(self._workers, len(client.nthreads()))
            waiting = [submitted(batch) for _, batch in zip(range(ahead), batches, strict=False)]
            while waiting:
                try:
                    with client.as_current():
                        done = wait(waiting, CONNECT_SECONDS, "FIRST_COMPLETED").done  # type: ignore[no-untyped-call]
                except TimeoutError:
                    # Long jobs take their time; workers that have left do not come back by waiting for ever.
                    if alone and not client.nthreads():
                        raise EngineError(f"{self._where()} has no workers any more; {_MEND}") from None
                    alone = not client.nthreads()
                    continue
                alone = False
                for future in [each for each in waiting if each in done]:
                    outcome: list[Outcome] = future.result()
                    waiting.remove(future)
                    future.release()
                    batch = next(batches, None)
                    if batch is not None:
                        waiting.append(submitted(batch))
                    yield outcome
        except KilledWorker as error:
            raise EngineError(
                f"the same batch was lost with its Dask worker again and again ({error}); {_MEND}"
            ) from error
        except (CommClosedError, CancelledError, AsyncCancelledError, OSError, TimeoutError) as error:
            raise EngineError(f"the Dask scheduler went away ({type(error).__name__}); {_MEND}") from error


def _see_scheduler(address: str) -> None:
    """Raise `EngineError` unless a Dask scheduler answers at `address`."""
    place = _host_and_port(address)
    if place is None:
        raise EngineError(
            f"--scheduler {address}: is no address of a Dask scheduler; write tcp://HOST:PORT, for example "
            "tcp://127.0.0.1:8786"
        )
    try:
        socket.create_connection(place, timeout=CONNECT_SECONDS).close()
        # In a thread, because this one may run a loop of its own, as that of a notebook does.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, _identity(address)).result()
    except (OSError, TimeoutError, ValueError) as error:
        raise _silent(address, error) from error


def _host_and_port(address: str) -> tuple[str, int] | None:
    """What `SCHEME://HOST:PORT` or `HOST:PORT` says; None for anything else."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    more = any((parts.path, parts.query, parts.fragment, parts.username))
    return (host, port) if parts.scheme in SCHEMES and host and port and not more else None


async def _identity(address: str) -> None:
    """Ask a scheduler who it is."""
    from distributed.core import rpc
    from distributed.security import Security

    how = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    async with rpc(address, timeout=CONNECT_SECONDS, connection_args=how) as scheduler:  # type: ignore[no-untyped-call]
        await asyncio.wait_for(scheduler.identity(), CONNECT_SECONDS)


def _silent(address: str | None, error: Exception) -> EngineError:
    why = " ".join(str(error).split()) or type(error).__name__
    return EngineError(
        f"--scheduler {address}: no Dask scheduler answers there ({why}); start one (dask scheduler), or check the "
        "address"
    )
