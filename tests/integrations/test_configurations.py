"""Hyper-parameters of ml_collections and OmegaConf."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from memory import Memory
from metriplex import MetricsCallback
from metriplex.run.hparams import flatten_hparams


@pytest.mark.parametrize("kind", ["ConfigDict", "FrozenConfigDict"])
def test_ml_collections(kind: str) -> None:
    ml_collections = pytest.importorskip("ml_collections", reason="ml_collections is not installed")
    config = ml_collections.ConfigDict({"lr": 1e-3, "net": {"width": 64}, "seeds": (1, 2)})
    config.final_lr = config.get_ref("lr") * 2
    config = getattr(ml_collections, kind)(config)
    expected = {"lr": 1e-3, "net/width": 64, "seeds": "(1, 2)", "final_lr": 2e-3}
    assert flatten_hparams(config) == expected
    assert flatten_hparams({"ppo": config}) == {f"ppo/{k}": v for k, v in expected.items()}


def test_omegaconf() -> None:
    conf = pytest.importorskip("omegaconf", reason="omegaconf is not installed").OmegaConf
    config = conf.create(
        {
            "lr": 1e-3,
            "net": {"width": "${size}", "layers": [64, 32]},
            "size": 64,
            "run": None,
            "later": "???",
            "wandb": {"api_key": "abc"},
        }
    )
    assert flatten_hparams(config) == {
        "lr": 1e-3,
        "net/width": 64,
        "net/layers": "[64, 32]",
        "size": 64,
        "run": "None",
        "later": "can't be read: MissingMandatoryValue",
        "wandb/api_key": "***",
    }


def test_omegaconf_with_types_reaches_the_backends() -> None:
    omegaconf = pytest.importorskip("omegaconf", reason="omegaconf is not installed")

    @dataclass
    class PPO:
        lr: float = 3e-4
        epochs: int = 4

    config = omegaconf.OmegaConf.merge(omegaconf.OmegaConf.structured(PPO), {"epochs": 8})
    memory = Memory()
    with MetricsCallback("run", backends=memory, hparams=config):
        pass
    assert memory.hparams == [{"lr": 3e-4, "epochs": 8}]
