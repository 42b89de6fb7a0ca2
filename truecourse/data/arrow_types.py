"""The Arrow type of each column type."""

from collections.abc import Mapping

import pyarrow as pa

from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Text, Time

UTC_TIME = pa.timestamp("us", tz="UTC")
ARROW_TYPES: Mapping[type, pa.DataType] = {
    Text: pa.string(), Integer: pa.int64(), Float: pa.float64(), Boolean: pa.bool_(), Time: UTC_TIME,
}  # fmt: skip


def arrow_type(column: AnyColumn) -> pa.DataType:
    return ARROW_TYPES[type(column)]
