"""tensorboardX's message classes for event files, which type checkers don't find by themselves."""

from __future__ import annotations

from typing import Any

from tensorboardX.proto import api_pb2, event_pb2, plugin_hparams_pb2, summary_pb2

Event: Any = event_pb2.Event  # ty: ignore[missing-attribute] - made at import
HParamsPluginData: Any = plugin_hparams_pb2.HParamsPluginData  # ty: ignore[missing-attribute] - made at import
SessionEndInfo: Any = plugin_hparams_pb2.SessionEndInfo  # ty: ignore[missing-attribute] - made at import
SessionLog: Any = event_pb2.SessionLog  # ty: ignore[missing-attribute] - made at import
Status: Any = api_pb2.Status  # ty: ignore[missing-attribute] - made at import
Summary: Any = summary_pb2.Summary  # ty: ignore[missing-attribute] - made at import
SummaryMetadata: Any = summary_pb2.SummaryMetadata  # ty: ignore[missing-attribute] - made at import
