"""Requests and predictions: the contract, its validation, OpenAPI, API keys, the prediction log and batch scoring.

Depends on `modeling` and `storage`.
"""

__all__ = [
    "api_keys",
    "batch_scoring",
    "contract",
    "log_segments",
    "log_shipping",
    "openapi",
    "prediction_log",
    "privacy",
    "request_reader",
    "row_files",
    "row_frames",
    "rows",
]
