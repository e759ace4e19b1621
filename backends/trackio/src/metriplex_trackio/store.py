"""Trackio's database of one project, and the files beside it.

The client that `trackio.init` makes has one current run per process, sends from a thread of its own
and, with a warning, skips values that it can't store. So the backend does not use the client. It
writes into the project's SQLite database by Trackio's own connection, lock and schema, in one
transaction per call. Committed rows survive this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sqlite3
from collections.abc import Generator, Mapping, Sequence  # noqa: TC003 - part of public annotations
from pathlib import Path
from typing import Any, final

from trackio import Artifact as TrackioArtifact
from trackio.media import get_project_media_path
from trackio.sqlite_storage import SQLiteStorage
from trackio.utils import MEDIA_DIR, TRACKIO_DIR

from metriplex import Artifact, TransientError
from metriplex_trackio.rows import Row  # noqa: TC001 - part of public annotations

_BUSY_SECONDS = 1.0
_CONFIGS = "SELECT run_id, config FROM configs WHERE run_id = :id OR run_id GLOB :lanes"
_LATER = (
    "SELECT id, metrics FROM metrics WHERE step >= :step AND (run_id = :id OR run_id GLOB :lanes)"
)


@final
class Store:
    """Trackio's database of one project. Stores of several processes may write at once.

    Args:
        project: Name of the project.
    """

    def __init__(self, project: str) -> None:
        self.project = project
        self.path = Path(SQLiteStorage.get_project_db_path(project))

    def create(self) -> None:
        """Create the database, or migrate an older one.

        Raises:
            OSError: The database can't be written, or another writer has the lock.
        """
        with self._failures():
            SQLiteStorage.init_db(self.project)

    def read_configs(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the configurations of a run and its lanes, by their ids in Trackio."""
        with self._writing() as connection:
            found = connection.execute(_CONFIGS, _of_run(run_id)).fetchall()
        return {one: json.loads(config) for one, config in found}

    def write(
        self,
        names: Mapping[int | None, tuple[str, str]],
        rows: Sequence[Row],
        configs: Mapping[int | None, bytes],
    ) -> None:
        """Store everything in one transaction, or nothing if it raises.

        Args:
            names: Lane to the id and the name of its run in Trackio.
            rows: The rows, in their order.
            configs: Lane to its run's configuration, which replaces an earlier one.

        Raises:
            OSError: The database can't be written, or another writer has the lock.
        """
        with self._writing() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO metrics "
                "(run_id, run_name, timestamp, step, metrics, log_id) VALUES (?, ?, ?, ?, ?, ?)",
                [(*names[row.lane], row.timestamp, row.step, row.metrics, row.key) for row in rows],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO configs (run_id, run_name, config, created_at) "
                "VALUES (?, ?, ?, strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))",
                [(*names[lane], config) for lane, config in configs.items()],
            )

    def supersede(self, run_id: str, step: int) -> None:
        """Remove rows and files of a run and its lanes at a step and beyond.

        Raises:
            OSError: The database can't be written, or another writer has the lock.
        """
        with self._writing() as connection:
            found = connection.execute(_LATER, {"step": step, **_of_run(run_id)}).fetchall()
            connection.executemany(
                "DELETE FROM metrics WHERE id = ?", [(number,) for number, _ in found]
            )
        files = [path for _, metrics in found for path in _files(metrics)]
        for path in files:
            path.unlink(missing_ok=True)

    def save(self, run_id: str, run_name: str, step: int, data: bytes, ending: str) -> str:
        """Write a file into Trackio's directory of a run and a step.

        Args:
            run_id: The run's id.
            run_name: The run's name.
            step: The step.
            data: The file's content.
            ending: The end of the file's name, `mp4` for example.

        Returns:
            The file's path, as in rows. The same content at the same step has the same path.

        Raises:
            OSError: The file can't be written.
        """
        directory = Path(get_project_media_path(project=self.project, run=run_name, step=step))
        digest = hashlib.blake2b(data, digest_size=16, key=run_id.encode()[:64]).hexdigest()
        path = directory / f"{digest}.{ending}"
        path.write_bytes(data)
        return path.relative_to(MEDIA_DIR).as_posix()

    def keep(self, run_id: str, run_name: str, artifact: Artifact) -> None:
        """Store a file or a directory as a version of one of Trackio's artifacts.

        Raises:
            OSError: The artifact can't be written, or another writer has the lock.
        """
        is_directory = artifact.path.is_dir()
        bundle = TrackioArtifact(
            _artifact_name(artifact.name),
            "directory" if is_directory else "file",
            metadata={"name": artifact.name, "step": artifact.step},
        )
        if is_directory:
            bundle.add_dir(artifact.path)
        else:
            bundle.add_file(artifact.path)
        with self._failures():
            SQLiteStorage.commit_artifact_version(
                project=self.project,
                name=bundle.name,
                type=bundle.type,
                description=None,
                manifest=bundle._build_manifest(self.project),  # noqa: SLF001 - as its client does
                metadata=bundle.metadata,
                aliases=[f"step_{artifact.step}"],
                run_name=run_name,
                run_id=run_id,
            )

    @contextlib.contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """Hold Trackio's lock for one transaction."""
        with (
            self._failures(),
            SQLiteStorage._get_process_lock(self.project),  # noqa: SLF001 - what its own writers use
            SQLiteStorage._get_connection(self.path, timeout=_BUSY_SECONDS) as opened,  # noqa: SLF001
        ):
            connection: sqlite3.Connection = opened
            yield connection

    @contextlib.contextmanager
    def _failures(self) -> Generator[None]:
        """Raise failures that may pass as `TransientError`, so that a worker calls again."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise TransientError(
                f"Trackio's database `{self.path}` can't be written now: {error}"
            ) from error


def lane_id(run_id: str, lane: int) -> str:
    """Return the id of a lane's run in Trackio."""
    return f"{run_id}-{lane}"


def _of_run(run_id: str) -> dict[str, str]:
    return {"id": run_id, "lanes": f"{run_id}-*"}


def directory() -> Path:
    """Return the directory of Trackio's files in this process."""
    return Path(TRACKIO_DIR)


def _files(metrics: bytes | str) -> list[Path]:
    values = json.loads(metrics).values()
    paths = [value.get("file_path") for value in values if isinstance(value, dict)]
    return [Path(MEDIA_DIR, path) for path in paths if path is not None]


def _artifact_name(name: str) -> str:
    """Return a name that Trackio accepts; different names stay different."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    if plain == name:
        return name
    return f"{plain}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
