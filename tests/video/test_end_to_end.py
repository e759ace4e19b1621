"""The whole: a training, TensorBoard, and a browser in which the clip moves."""

from __future__ import annotations

import base64
import io
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metriplex import MetricsCallback
from metriplex.demo.cartpole import CartPole
from metriplex.demo.ppo import Config, train
from programs.test_end_to_end import ask_until, tensorboard

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.slow

CONFIG = Config(num_envs=4, rollout_length=16, num_iterations=12, num_epochs=1, hidden=(8,))
CARTPOLE = CartPole()


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log directory of a training with three videos of 60 frames."""
    pytest.importorskip("metriplex_pygame", reason="the pygame renderer is not installed")
    directory = tmp_path_factory.mktemp("logs")
    with MetricsCallback(
        "run",
        CARTPOLE,
        log_dir=directory,
        video_interval=5,
        video_num_steps=60,
        video_width=320,
        video_height=240,
        video_fps=25,
    ) as metrics:
        trained = train(metrics, jax.random.key(0), CONFIG, CARTPOLE)
        metrics.close(timeout=300)  # of a machine with every core busy
    plain = train(None, jax.random.key(0), CONFIG, CARTPOLE)
    for ours, theirs in zip(
        jax.tree.leaves(trained.policy), jax.tree.leaves(plain.policy), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)  # videos change nothing
    return directory


def test_the_event_file_holds_every_clip(log_dir: Path) -> None:
    events = EventAccumulator(str(log_dir / "run"), size_guidance={"images": 0}).Reload()
    images = events.Images("eval/video")
    assert [image.step for image in images] == [64, 6 * 64, 11 * 64]
    for image in images:
        clip: Any = Image.open(io.BytesIO(image.encoded_image_string))
        assert (clip.n_frames, clip.size, clip.info["duration"]) == (60, (320, 240), 40)


@contextmanager
def browser(profile: Path) -> Generator[Any]:
    """A headless Chromium with a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium: `apt-get install -y chromium chromium-driver`")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,900",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=driver)
    opened = webdriver.Chrome(options=options, service=service)
    try:
        yield opened
    finally:
        opened.quit()


FIND = """
const found = [];
const search = root => {
  for (const element of root.querySelectorAll('*')) {
    if (element.tagName === 'IMG' && /individualImage/.test(element.src)) found.push(element);
    if (element.shadowRoot) search(element.shadowRoot);
  }
};
search(document);
return found.filter(one => one.complete && one.naturalWidth === 320 && one.offsetWidth)[0];
"""
"""TensorBoard's picture, which is inside of shadow roots."""


def test_the_clip_moves_in_tensorboard(log_dir: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as chromium, tensorboard(log_dir) as url:
        ask_until(url, "/data/plugin/images/tags", lambda tags: "eval/video" in str(tags))
        from selenium.webdriver.support.ui import WebDriverWait

        chromium.get(f"{url}/#images")
        picture = WebDriverWait(chromium, 60).until(lambda page: page.execute_script(FIND))
        first = screenshot(picture)
        WebDriverWait(chromium, 30).until(lambda _: not np.array_equal(screenshot(picture), first))
        (tmp_path / "images.png").write_bytes(base64.b64decode(chromium.get_screenshot_as_base64()))
        assert "eval/video" in chromium.execute_script(
            "return document.querySelector('tf-image-dashboard, body').innerText"
        ) or chromium.execute_script("return !!document.querySelector('tf-image-dashboard')")


def screenshot(element: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))
