"""Measure the records a second that metriplex and a service's client make durable in the service.

A record is 20 scalars at one step. metriplex gets the records one by one from
`MetricsCallback.log`, and is measured until `flush` returns, with its journal, as by default. The
client of the service is called directly, as its documentation shows, and measured until its records
are durable. Opening and closing a run is not measured. Contestants take turns in the same process
and on the same server. The time per record is compared, since a client that makes a request for
every value gets fewer records. `scaling.py` measures the cost of eight backends for the training.

Backends that are not installed are skipped. To add one, write a function that yields a `Service`.

    python benchmarks/backends.py [--short]
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

from _measure import is_short, print_machine, print_table, ratio, take_turns

from metriplex import MetricsCallback, Scalars

SCALARS = 20

Log: TypeAlias = Callable[[Sequence[Scalars]], object]
"""A function that logs records with a client, and returns once they are durable."""


@final
@dataclass(frozen=True)
class Client:
    """One way to call a service's own client.

    Attributes:
        open: Opens a run in a directory, if the service needs one, and returns its log function.
        records: Number of records in a round.
    """

    open: Callable[[Path], Log]
    records: int


@final
@dataclass(frozen=True)
class Service:
    """The contestants of one service.

    Attributes:
        backends: Backends, as for `MetricsCallback`.
        records: Number of records that metriplex gets in a round.
        clients: Name of the called function to the service's own client.
    """

    backends: Any
    records: int
    clients: Mapping[str, Client]


def make_records(count: int) -> list[Scalars]:
    return [
        Scalars(
            step=512 * index,
            values={f"train/metric_{number}": index + number / 7 for number in range(SCALARS)},
            wall_time=time.time(),
        )
        for index in range(count)
    ]


def time_client(client: Client) -> float:
    """Return seconds per record."""
    with tempfile.TemporaryDirectory() as directory:
        log = client.open(Path(directory))
        records = make_records(client.records)
        start = time.perf_counter()
        log(records)
        return (time.perf_counter() - start) / client.records


def time_metriplex(service: Service, calls: list[float]) -> float:
    """Return seconds per record; append the seconds per `log` to `calls`."""
    with (
        tempfile.TemporaryDirectory() as log_dir,
        MetricsCallback(
            "run", log_dir=log_dir, backends=service.backends, queue_size=2**20
        ) as metrics,
    ):
        metrics.flush(timeout=60)  # the run is open
        records = make_records(service.records)
        start = time.perf_counter()
        for record in records:
            metrics.log(record.step, record.values)
        calls.append((time.perf_counter() - start) / service.records)
        metrics.flush(timeout=600)
        seconds = (time.perf_counter() - start) / service.records
    for delivery in metrics.deliveries():
        assert delivery.undelivered == 0, delivery
    return seconds


# The services ---------------------------------------------------------------------------------


@contextlib.contextmanager
def tensorboard(_: Path, scale: int) -> Generator[Service]:
    from tensorboardX import SummaryWriter

    def open_writer(directory: Path) -> Log:
        writer = SummaryWriter(str(directory))

        def log(records: Sequence[Scalars]) -> None:
            for record in records:
                for tag, value in record.values.items():
                    writer.add_scalar(tag, value, record.step, record.wall_time)
            writer.close()  # `flush` is not durable

        return log

    clients = {"SummaryWriter.add_scalar": Client(open_writer, 30 * scale)}
    yield Service("tensorboard", 100 * scale, clients)


@contextlib.contextmanager
def mlflow(directory: Path, scale: int) -> Generator[Service]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.client import MlflowClient
    from mlflow.entities import Metric

    from metriplex_mlflow.testing import TrackingServer

    def open_run(log: Callable[[str, Scalars], None]) -> Log:
        run_id = client.create_run(experiment).info.run_id
        return lambda records: [log(run_id, record) for record in records]

    def log_metric(run_id: str, record: Scalars) -> None:
        for tag, value in record.values.items():
            client.log_metric(run_id, tag, value, step=record.step)

    def log_batch(run_id: str, record: Scalars) -> None:
        now = round(record.wall_time * 1000)
        metrics = [Metric(tag, value, now, record.step) for tag, value in record.values.items()]
        client.log_batch(run_id, metrics)

    server = TrackingServer(directory)
    server.start()
    try:
        client = MlflowClient(server.uri)
        experiment = client.create_experiment("client")
        yield Service(
            {"mlflow": {"tracking_uri": server.uri, "timeout_secs": 60.0}},
            20 * scale,
            {
                "MlflowClient.log_metric": Client(lambda _: open_run(log_metric), scale // 5),
                "MlflowClient.log_batch": Client(lambda _: open_run(log_batch), 2 * scale),
            },
        )
    finally:
        server.stop()


@contextlib.contextmanager
def wandb(_: Path, scale: int) -> Generator[Service]:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb as sdk

    def open_run(directory: Path) -> Log:
        run = sdk.init(project="benchmark", mode="offline", dir=str(directory))

        def log(records: Sequence[Scalars]) -> None:
            for record in records:
                run.log(record.values, step=record.step)
            run.finish()

        return log

    backends = {"wandb": {"project": "benchmark", "mode": "offline"}}
    yield Service(backends, 50 * scale, {"Run.log, offline": Client(open_run, 50 * scale)})


@contextlib.contextmanager
def trackio(directory: Path, scale: int) -> Generator[Service]:
    os.environ["TRACKIO_DIR"] = str(directory)
    import trackio as sdk

    names = itertools.count()

    def open_run(_: Path) -> Log:
        sdk.init(project="benchmark", name=f"client-{next(names)}")

        def log(records: Sequence[Scalars]) -> None:
            for record in records:
                sdk.log(dict(record.values), step=record.step)
            sdk.finish()

        return log

    yield Service("trackio", 20 * scale, {"trackio.log": Client(open_run, 20 * scale)})


SERVICES: Mapping[str, Callable[[Path, int], AbstractContextManager[Service]]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
    "wandb": wandb,
    "trackio": trackio,
}
SDKS = {"tensorboard": "tensorboardX"}


def measure(name: str, scale: int, rounds: int) -> list[list[str]]:
    """Return the table rows of one service."""
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.redirect_stdout(io.StringIO()),  # clients print greetings
        SERVICES[name](Path(directory), scale) as service,
    ):
        calls: list[float] = []
        contestants: dict[str, Callable[[], float]] = {
            "metriplex": lambda: time_metriplex(service, calls)
        }
        for called, client in service.clients.items():
            contestants[called] = lambda client=client: time_client(client)
        results = take_turns(contestants, rounds)
    rows = []
    for called, seconds in results.items():
        per_call = f"{statistics.median(calls) * 1e6:.0f}" if called == "metriplex" else ""
        rate = f"{1 / statistics.median(seconds):,.0f}"
        rows.append([name, called, rate, f"{ratio(results, called, 'metriplex'):.1f}", per_call])
    return rows


def main() -> None:
    scale, rounds = (10, 1) if is_short(__doc__) else (100, 5)
    installed = [
        name
        for name in SERVICES
        if importlib.util.find_spec(f"metriplex_{name}")
        and importlib.util.find_spec(SDKS.get(name, name))
    ]
    print_machine("metriplex", *(SDKS.get(name, name) for name in installed))
    rows = [row for name in installed for row in measure(name, scale, rounds)]
    print_table(
        ["service", "called", "records/s", "times as fast is metriplex", "µs a call of `log`"], rows
    )
    for name in SERVICES.keys() - set(installed):
        print(f"{name}: left out, not installed: `pip install metriplex-{name} {name}`")


if __name__ == "__main__":
    main()
