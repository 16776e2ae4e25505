"""The strict base class of the configuration's sections, and the types of their values."""

from __future__ import annotations

import math
import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


class Section(BaseModel):
    # use_attribute_docstrings: the string under a field describes its key in configs/schema.json and docs/configuration.md.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def range_of(lowest: float, highest: float = math.inf) -> Any:
    """The type of a [smallest, largest] pair from which one value is drawn per sample. Both values must lie between `lowest` and
    `highest`."""

    def check(pair: tuple[float, float]) -> tuple[float, float]:
        if pair[0] > pair[1]:
            raise ValueError("a range is [smallest, largest]")
        if pair[0] < lowest or pair[1] > highest:
            raise ValueError(f"both values must lie between {lowest:g} and {highest:g}")
        return pair

    def to_tuple(value: Any) -> Any:
        # YAML has lists but no tuples, and strict validation refuses a list for a tuple.
        return tuple(value) if isinstance(value, list) else value

    # Pydantic's own schema of a tuple would lack the limits, which only `check` knows.
    limits = {"type": "number", "minimum": lowest} | ({} if math.isinf(highest) else {"maximum": highest})
    schema = {"type": "array", "items": limits, "minItems": 2, "maxItems": 2}
    return Annotated[tuple[float, float], BeforeValidator(to_tuple), AfterValidator(check), WithJsonSchema(schema)]


Precision = Literal["fp32", "fp16", "bf16"]
Probability = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=16)]
PathName = Annotated[str, AfterValidator(os.path.expanduser)]  # the shell leaves the ~ of key=~/folder as it is
Shape = Annotated[list[Count], Field(min_length=3, max_length=3)]
