"""Names that MLflow accepts."""

from __future__ import annotations

import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mlflow")

from metriplex_mlflow.names import decode, digest_of, encode, shorten

TAGS = st.text(min_size=1) | st.text(alphabet="_x0123ABF./a~:\n", min_size=1)


@pytest.mark.parametrize("tag", ["train/loss", "episode/return", "pos_x", "a b.c-d_e", "..a/b.."])
def test_ordinary_tags_are_names_as_they_are(tag: str) -> None:
    assert encode(tag) == tag


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("loss%", "loss_x0025_"),
        ("a:b", "a_x003A_b"),
        ("../x", "_x002E_./x"),
        ("/a//b/", "_x002F_a/_x002F_b_x002F_"),
        (".", "_x002E_"),
        ("🙂", "_x1F642_"),
        ("_x0025_", "_x005F_x0025_"),
        ("a\n", "a_x000A_"),
    ],
)
def test_other_tags_are_escaped(tag: str, name: str) -> None:
    assert encode(tag) == name


@given(TAGS)
def test_names_are_what_mlflow_takes_and_give_the_tag_back(tag: str) -> None:
    name = encode(tag)
    assert re.fullmatch(r"[/\w.\- ]+", name)
    assert posixpath.normpath(name) == name
    assert not name.startswith(("/", "../"))
    assert decode(name) == tag


@given(st.text(min_size=60))
def test_what_is_too_long_ends_in_a_digest(tag: str) -> None:
    name = encode(tag)
    short = shorten(name, 50)
    if len(name.encode()) <= 50:
        assert short == name
    else:
        assert len(short.encode()) <= 50
        assert name.startswith(short[:-33])
        assert digest_of(short) == short[-32:]
        assert shorten(name + "x", 50) != short
