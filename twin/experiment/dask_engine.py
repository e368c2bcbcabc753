"""Jobs on a Dask cluster: one that is there already, or one of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twin.experiment.engines import Batch, EngineError, batch_done
from twin.experiment.jobs import Outcome, Perform

CONNECT_SECONDS = 10
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

    def outcomes(self, perform: Perform, batches: Iterator[Batch]) -> Iterator[list[Outcome]]:
        """As `Engine.outcomes`. Raises `EngineError` when the scheduler is not there, or goes away."""
        from distributed import Client, LocalCluster
        from distributed.comm.core import CommClosedError

        cluster: Any = None
        if self._address is None:
            cluster = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=self._workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
            )
        try:
            try:
                client = Client(cluster or self._address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
            except (OSError, TimeoutError, ValueError, CommClosedError) as error:
                raise EngineError(
                    f"--scheduler {self._address}: no Dask scheduler answers there ({error}); start one (dask "
                    f"scheduler), or check the address; {_MEND}"
                ) from error
            with client:
                yield from self._all(client, perform, batches)
        finally:
            if cluster is not None:
                cluster.close(timeout=10)

    def _all(self, client: Any, perform: Perform, batches: Iterator[Batch]) -> Iterator[list[Outcome]]:
        from distributed import as_completed
        from distributed.client import FutureCancelledError
        from distributed.comm.core import CommClosedError

        def submitted(batch: Batch) -> Any:
            # A batch is never two futures, even where Dask would know the result of an equal one.
            return client.submit(batch_done, perform, batch, pure=False, retries=3)

        ahead = 2 * max(self._workers, len(client.scheduler_info().get("workers", {})))
        try:
            first = [submitted(batch) for _, batch in zip(range(ahead), batches, strict=False)]
            done: Any = as_completed(first)  # type: ignore[no-untyped-call]
            for future in done:
                outcome: list[Outcome] = future.result()
                future.release()
                batch = next(batches, None)
                if batch is not None:
                    done.add(submitted(batch))
                yield outcome
        except (CommClosedError, FutureCancelledError, OSError, TimeoutError) as error:
            raise EngineError(f"the Dask scheduler went away ({type(error).__name__}); {_MEND}") from error
