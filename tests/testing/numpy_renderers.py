"""A tiny correct renderer, and many renderers that are each wrong in one way."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from metriplex import ClosedError, Renderer


class Square(Renderer):
    """A square that moves to the right; correct in every respect."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.closed = False

    def select(self, state: Any) -> Any:
        return {"x": state["x"]}

    def render(self, selected: Any) -> Any:
        if self.closed:
            raise ClosedError("closed")
        if np.shape(selected["x"]) != ():
            raise ValueError("`x` must be a scalar")
        return self.draw(float(selected["x"]))

    def draw(self, x: float) -> Any:
        frame = np.zeros((self.height, self.width, 3), np.uint8)
        left = int(x * self.width)
        frame[self.height // 4 : self.height // 2 + 1, left : left + 5] = 255, 128, 0
        return frame

    def close(self) -> None:
        self.closed = True


class Float(Square):
    def draw(self, x):
        return super().draw(x).astype(np.float32)


class WithAlpha(Square):
    def draw(self, x):
        frame = super().draw(x)
        return np.concatenate([frame, frame[..., :1]], axis=-1)


class NotAnArray(Square):
    def draw(self, x):
        return super().draw(x).tolist()


class FixedSize(Square):
    def __init__(self, width, height):
        super().__init__(64, 48)


class EvenSizes(Square):
    def __init__(self, width, height):
        super().__init__(width + width % 2, height + height % 2)


class OneColour(Square):
    def draw(self, x):
        return np.full((self.height, self.width, 3), int(x * 255), np.uint8)


class Still(Square):
    def draw(self, x):
        return super().draw(0.5)


class LeavesTrails(Square):
    trail = None

    def draw(self, x):
        frame = super().draw(x)
        self.trail = frame if self.trail is None else np.maximum(self.trail, frame)
        return self.trail


class CountsObjects(Square):
    count = 0

    def __init__(self, width, height):
        super().__init__(width, height)
        CountsObjects.count += 1
        self.number = CountsObjects.count % 200

    def draw(self, x):
        frame = super().draw(x)
        frame[0, 0] = self.number
        return frame


class CloseOnce(Square):
    def close(self):
        if self.closed:
            raise RuntimeError("closed twice")
        super().close()


class CloseNeedsFrame(Square):
    context: Any = None

    def draw(self, x):
        self.context = threading.Lock()
        self.context.acquire()
        return super().draw(x)

    def close(self):
        if not self.closed:
            self.context.release()
        super().close()


class DrawsAfterClose(Square):
    def close(self):
        pass


class LeaksFiles(Square):
    descriptor = -1

    def draw(self, x):
        if self.descriptor < 0:
            self.descriptor = os.open(os.devnull, os.O_RDONLY)
        return super().draw(x)


class RunsOut(Square):
    count = 0

    def draw(self, x):
        if not hasattr(self, "context"):
            RunsOut.count += 1
            self.context = RunsOut.count
        if self.context == 80:
            raise RuntimeError("no more contexts")
        return super().draw(x)


class BoundToThread(Square):
    def __init__(self, width, height):
        super().__init__(width, height)
        self.thread = threading.get_ident()

    def __reduce__(self):
        return type(self), (self.width, self.height)

    def draw(self, x):
        if threading.get_ident() != self.thread:
            raise RuntimeError("no context is current in this thread")
        return super().draw(x)


class NotPicklable(Square):
    def __init__(self, width, height):
        super().__init__(width, height)
        self.lock = threading.Lock()


class NeedsDisplay(Square):
    def draw(self, x):
        if "DISPLAY" not in os.environ:
            raise RuntimeError("can't open display")
        return super().draw(x)


class Prints(Square):
    def draw(self, x):
        print("hello from the drawing community")
        return super().draw(x)


class SetsVariables(Square):
    def draw(self, x):
        os.environ["SOME_GL"] = "egl"
        return super().draw(x)


class BranchesOnValues(Square):
    def select(self, state):
        return {"x": state["x"] if state["x"] > 0.1 else state["x"] * 2}


class SelectsEverything(Square):
    def select(self, state):
        return {"x": state["x"], "world": np.zeros((640, 480), np.float32)}


class SelectsAnObject(Square):
    def select(self, state):
        return Path(str(float(state["x"])))

    def render(self, selected):
        return super().render({"x": np.float64(str(selected))})


class DrawsAnything(Square):
    def render(self, selected):
        return super().render({"x": np.asarray(selected["x"]).ravel()[0]})


class SpoiledByBadStates(Square):
    spoiled = False

    def render(self, selected):
        self.spoiled |= np.shape(selected["x"]) != ()
        frame = super().render(selected)
        return 255 - frame if self.spoiled else frame
