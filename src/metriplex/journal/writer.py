"""Append to a journal without torn or repeated lines, also after crashes and a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Mapping, Sequence  # noqa: TC003 - part of public annotations
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, final

from metriplex.errors import ClosedError, ConfigurationError
from metriplex.files import check_inside, make_directory, open_descriptor
from metriplex.journal.codec import decode_header, encode, encode_header
from metriplex.journal.entries import STEPPED, Record, Resume
from metriplex.journal.lines import MAX_LINE, DamagedLineError, seal
from metriplex.journal.media import sync_directory
from metriplex.journal.reader import advance, newest_step, next_number
from metriplex.journal.segments import (
    MAX_BYTES,
    journal_dir,
    open_segment,
    read_header,
    segments,
)
from metriplex.journal.tail import read_tail
from metriplex.naming import reserve_standard_descriptors
from metriplex.records import RunInfo  # noqa: TC001 - part of public annotations

try:
    import fcntl
except ImportError:  # Windows: a second process is not locked out
    fcntl = None

FsyncPolicy: TypeAlias = Literal["never", "flush", "always"]

_Stamp: TypeAlias = tuple[int, int | None, bool]

_LOCK = "lock"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_open_writers: weakref.WeakSet[JournalWriter] = weakref.WeakSet()


@final
class JournalWriter:
    """Writer of the journal of one new or resumed run. Not thread-safe.

    An open writer holds a lock on `journal/lock`, so no other process and no other writer in this
    process can open the journal. The kernel releases the lock however the process ends.

    Args:
        directory: The run's directory, which must exist; the journal is `journal/` in it.
        run: The run.
        fsync: When to wait for the disk, so that lines survive a power cut: `flush` (at every
            `flush`), `always` (at every `append`, which then also flushes) or `never`. Flushed
            lines survive the death of the process under every policy.
        max_bytes: Size of a segment after which the next segment begins.

    Attributes:
        next_number: Number of the next entry, 0 for a new journal.
        written: Entries with lower numbers are in the file.

    Raises:
        ConfigurationError: Another process writes this journal, or the journal is another run's.
        OSError: The journal can't be created, read or written.
    """

    def __init__(
        self,
        directory: Path,
        run: RunInfo,
        *,
        fsync: FsyncPolicy = "flush",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._run_dir = Path(directory)
        self._run = run
        self._fsync = fsync
        self._max_bytes = max_bytes
        self._pending: list[tuple[int, bytes, _Stamp | None]] = []
        self._file: IO[bytes] | None = None
        self._fresh: Path | None = None
        self._index = 0
        self._size = 0
        self._unsynced = False
        self._steps: dict[int | None, int] = {}
        self._opened_at = self.written = 0
        self._lock: int | None = None
        self._made = not journal_dir(self._run_dir).exists()
        try:
            make_directory(journal_dir(self._run_dir), inside=self._run_dir)
            self._lock = take_lock(self._run_dir)
            self.next_number = self._reopen()
        except BaseException:
            self.discard()
            raise
        self._opened_at = self.written = self.next_number
        _open_writers.add(self)

    def append(self, first_number: int, records: Sequence[Record]) -> None:
        """Append records in memory until `flush`; write media files at once.

        After an `OSError` the same call can be repeated, as records with numbers below
        `next_number` are skipped.

        Args:
            first_number: Number of the first record; later records have consecutive numbers.
            records: The records.

        Raises:
            OSError: A media file can't be written, or an artifact can't be read.
            ValueError: An artifact is outside of the run's directory, or a record is too long.
            ClosedError: The journal is closed, or this process is a fork of the writer's process.
        """
        if self._lock is None:
            raise ClosedError(
                f"the journal in {str(self._run_dir)!r} is closed: open it again with a new "
                f"`JournalWriter`"
            )
        sync = self._fsync != "never"
        for number, record in enumerate(records, first_number):
            if number >= self.next_number:
                line = seal(encode(number, record, self._run_dir, sync=sync))
                if len(line) > MAX_LINE:
                    raise ValueError(f"a record of {len(line):,} bytes can't be read again")
                self._pending.append((number, line, _stamp(record)))
                self.next_number = number + 1
        if self._fsync == "always":
            self.flush()

    def flush(self) -> None:
        """Write all appended records, so that they survive the death of this process.

        Raises:
            OSError: Some lines can't be written. The file still ends in a whole line, and the next
                call writes the remaining lines.
        """
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
            self._end_segment()  # the file was removed: later lines would be lost silently
        while self._pending:
            if self._file is not None and self._size >= self._max_bytes:
                self._end_segment()
                self._index += 1
            if self._file is None:
                self._begin(self._index, self._pending[0][0])
            self._write()
        self._sync()

    def close(self) -> None:
        """Flush, and release the lock also after an `OSError` of `flush`. May be called again."""
        if self._lock is None:
            return
        try:
            self.flush()
        finally:
            self._release()

    def discard(self) -> None:
        """Release the lock without writing, and remove what was made in vain.

        This opens nothing: the reason may be that no descriptor is left.
        """
        with contextlib.suppress(OSError):
            if self._fresh is not None and self.written == self._opened_at:
                self._fresh.unlink()
            if self._made and self._lock is not None:
                (journal_dir(self._run_dir) / _LOCK).unlink()
        self._release()
        with contextlib.suppress(OSError):
            if self._made:
                journal_dir(self._run_dir).rmdir()

    # ---- segments -------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write as many pending lines as fit into the segment, at least one."""
        room, count, size = self._max_bytes - self._size, 1, len(self._pending[0][1])
        while count < len(self._pending) and size < room:
            size += len(self._pending[count][1])
            count += 1
        lines = [line for _, line, _ in self._pending[:count]]
        self._put(b"".join(lines))
        for _, _, stamp in self._pending[:count]:
            if stamp is not None:
                step, lane, is_resume = stamp
                advance(self._steps, step, lane, is_resume=is_resume)
        self.written = self._pending[count - 1][0] + 1
        del self._pending[:count]

    def _put(self, data: bytes) -> None:
        """Write after the last whole line; truncate to that line on a failure."""
        if self._file is None:
            raise AssertionError("a segment is open where it is written")
        try:
            self._file.seek(self._size)
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size += len(data)
        self._unsynced = True

    def _sync(self) -> None:
        if self._file is not None and self._unsynced and self._fsync != "never":
            os.fsync(self._file.fileno())
            self._unsynced = False

    def _end_segment(self) -> None:
        self._sync()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, index: int, first: int) -> None:
        """Begin a segment; after an `OSError` a second call begins the same segment."""
        path = journal_dir(self._run_dir) / f"{index:06d}.jsonl"
        self._fresh = None if path.exists() else path
        reserve_standard_descriptors()
        self._file = open_segment(path, "wb", buffering=0)
        self._index, self._size = index, 0
        kind = "run" if index == 0 else "segment"
        try:
            self._put(seal(encode_header(self._run, kind, first, self._steps)))
        except OSError:
            self._file.close()
            self._file = None
            raise
        self._sync()
        if self._fsync != "never":
            sync_directory(path.parent)

    # ---- opening --------------------------------------------------------------------------------

    def _reopen(self) -> int:
        """Open the last segment after its last whole line, and return the next number."""
        found = segments(self._run_dir)
        if not found:
            self._begin(0, 0)
            return 0
        self._steps = newest_step(self._run_dir)
        self._index, path = found[-1]
        header = read_header(path)
        known = None if header is None else self._check_run(header)
        self._file = open_segment(path, "r+b", buffering=0)
        number = next_number(self._run_dir)
        tail = read_tail(self._file)
        self._file.truncate(tail.size)
        self._size = tail.size
        if tail.open_line:
            self._put(b"\n")
        if known is None or _properties(known) != _properties(self._run):
            self._file.close()
            self._begin(self._index + bool(tail.size), number)
        return number

    def _check_run(self, header: Mapping[str, Any]) -> RunInfo:
        try:
            known = decode_header(header, self._run_dir)
        except DamagedLineError as error:
            raise ConfigurationError(
                f"the journal in {str(self._run_dir)!r} can't be continued: {error}"
            ) from error
        if known.id != self._run.id:
            raise ConfigurationError(
                f"the journal in {str(self._run_dir)!r} is of run `{known.name}` ({known.id}), not "
                f"of `{self._run.name}` ({self._run.id}): give another directory, or resume it"
            )
        return known

    # ---- the lock -------------------------------------------------------------------------------

    def _release(self) -> None:
        """Close the file and the lock without writing; a forked child calls this too."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._pending.clear()


def _stamp(record: Record) -> _Stamp | None:
    """Return the step and the lane of a record, and True for a resume; None without a step."""
    if isinstance(record, Resume):
        return record.step, None, True
    return (record.step, record.lane, False) if isinstance(record, STEPPED) else None


def check_free(run_dir: Path) -> None:
    """Raise `ConfigurationError` if a process writes a run's journal at this moment."""
    os.close(take_lock(run_dir))


def _properties(run: RunInfo) -> tuple[object, ...]:
    """Return the properties in a header that may change when the run is resumed."""
    return run.name, run.total_steps, run.lanes


def take_lock(run_dir: Path) -> int:
    """Lock a run's journal, so that no other process can write it, until `os.close` of the result.

    Raises:
        ConfigurationError: Another process writes it.
        UnsafeFileError: A symbolic link in the run's directory leads to where others would write.
        OSError: The lock's file can't be created.
    """
    path = journal_dir(run_dir) / _LOCK
    for found in run_dir.iterdir():  # backends write below directories of names of their own
        if found.is_dir():
            check_inside(found, run_dir)
    descriptor = open_descriptor(path, os.O_RDWR | os.O_CREAT, inside=run_dir)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigurationError(
            f"another process writes the journal in {str(path.parent)!r}: end it first, or start a "
            f"new run"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:  # a file system without locks
            os.close(descriptor)
            raise
    return descriptor


def _after_fork() -> None:
    for writer in list(_open_writers):
        writer._release()  # noqa: SLF001 - the same module


with contextlib.suppress(AttributeError):  # no fork on Windows
    os.register_at_fork(after_in_child=_after_fork)
