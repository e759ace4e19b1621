"""Test how a backend stores tags of any form."""

from __future__ import annotations

import abc
import contextlib
from typing import TYPE_CHECKING

from metriplex.testing.contract.base import ContractBase

if TYPE_CHECKING:
    from metriplex.records import RunInfo

_UNICODE = ("θ/损失", "损失", "🙂/x", "é", "e\u0301", "ß", "ss", "مرحبا", "\u202ex", "x\u200by")
_NESTED = ("a", "a/b", "a/b/c", "/".join("abcdefghij" * 10), "x/y", "y/x", "x", "y")
_HOSTILE = (
    *("../x", "../../../x", "/x", "x/", "//", "/", ".", "..", "x//y", "./x", "x/../x", "~", "~/x"),
    *(" ", " x", "x ", "x y", "x\ty", "x\ny", "x\r\ny", "x\0y", "\x1b[2J", "\\x", "C:\\x", "x\\y"),
    *("'", '"', "`x`", "x=y", "x,y", "x;y", "x:y", "x|y", "x?", "x*", "<b>x</b>", "{x}", "[x]"),
    *("%s", "%00", "x%2Fy", "$HOME", "${x}", "#x", "x&y", "x@y", "--x", "-", "_", "x.y", "x_y"),
    *("X", "X/Y", "x-y", "None", "null", "nan", "true", "1", "0.5", "__class__", "NUL", "con"),
    *("step", "_step", "steps", "time", "_timestamp", "_runtime", "run", "lane", "value", "values"),
    *("seed_000", "seed_000/x", "seed_001", "tag", "id", "name", "status", "iteration"),
)
_LONG = ("l" * 100, "l" * 251, "l" * 1000 + "a", "l" * 1000 + "b", "/".join(["long"] * 500))
_MANY = 10_000


class TagTests(ContractBase, abc.ABC):
    """Tests of tags: different tags stay different, and no tag does harm."""

    subject = "tags"

    def test_unicode_tags(self) -> None:
        """Tags in any script are stored, and tags that only look alike stay different.

        To fix it, write UTF-8, and don't normalize.
        """
        self._check_tags(_UNICODE)

    def test_nested_tags(self) -> None:
        """A tag may be the prefix of another one (`a` and `a/b`), and have a hundred parts.

        To fix it, store a tag as one name; if its parts become directories, store values outside of
        these directories.
        """
        self._check_tags(_NESTED)

    def test_hostile_tags(self) -> None:
        """Tags that are paths, markup, control characters or names of the service are plain names.

        To fix it, escape characters and names that the service reserves, so that different tags
        stay different, and return the stored form from `stored_tag`; never use a tag as a path.
        """
        self._check_tags(_HOSTILE)

    def test_long_tags(self) -> None:
        """Tags of up to 2,500 characters stay different, also if only their ends differ.

        To fix it, replace the end of a long tag by a digest of the whole tag, and return this form
        from `stored_tag`.
        """
        self._check_tags(_LONG)

    def test_ten_thousand_tags(self) -> None:
        """One record may have 10,000 tags.

        To fix it, split records that are too large for one request.
        """
        session = self._open("log_scalars")
        session.log(1, {f"group_{i % 10}/tag_{i}": i / 4 for i in range(_MANY)})
        session.close()
        expected = {(None, f"group_{i % 10}/tag_{i}"): [(1, i / 4)] for i in range(_MANY)}
        self._check(session.run, expected)

    def test_an_empty_tag_harms_nothing_else(self) -> None:
        """An empty tag, which metriplex never sends, doesn't affect later records.

        To fix it, raise `metriplex.LoggingError` before anything is stored.
        """
        session = self._open("log_scalars")
        with contextlib.suppress(Exception):
            session.log(1, {"": 1.0})
        session.log(2, {"a": 2.0})
        session.close()
        points = self._read(session.run).scalars.get((None, self.stored_tag("a")))
        assert list(points or ()) == [(2, self.stored_value(2.0))], (
            f"after a record with an empty tag, 2.0 at step 2 of `a` is stored as {points}"
        )

    def _check_tags(self, tags: tuple[str, ...]) -> None:
        beside = self._files_of_a_plain_run()
        session = self._open("log_scalars", run=self._make_run("many_tags"))
        session.log(1, {tag: index / 4 for index, tag in enumerate(tags)})
        for index, tag in enumerate(tags[::2]):
            session.log(2 + index, {tag: index / 2 + 0.125})
        session.close()
        known: dict[str, str] = {}
        for tag in tags:
            other = known.setdefault(self.stored_tag(tag), tag)
            assert other == tag, f"`stored_tag` gives {self.stored_tag(tag)!r} for two tags"
        expected = {(None, tag): [(1, index / 4)] for index, tag in enumerate(tags)}
        for index, tag in enumerate(tags[::2]):
            expected[None, tag].append((2 + index, index / 2 + 0.125))
        self._check(session.run, expected)
        made = _files_beside(session.run) - beside
        assert not made, f"a tag made files outside of the run: {', '.join(sorted(made))}"

    def _files_of_a_plain_run(self) -> set[str]:
        """Return the names beside the directory of a run with a tag that can do no harm."""
        session = self._open("log_scalars", run=self._make_run("plain_tags", logs="plain"))
        for step in (1, 2):
            session.log(step, {"plain": 0.5})
        session.close()
        return _files_beside(session.run)


def _files_beside(run: RunInfo) -> set[str]:
    """Return what lies beside a run's directory, in names that are comparable between runs."""
    names = [path.name for path in run.directory.parent.iterdir()]
    return {name.replace(run.id, "{id}").replace(run.name, "{name}") for name in names}
