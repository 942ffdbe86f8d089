"""Options that several objectives and distillers share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

Temperature = Annotated[PositiveFloat, Field(description="τ, the temperature of the softmax")]
Momentum = Annotated[
    float, Field(ge=0, le=1, description="μ, the share of a memory row that an update keeps")
]
PartWeight = Annotated[
    float, Field(ge=0, le=1, description="λ2, loss weight of each part view; of the global: 1 − λ2")
]
Smoothing = Annotated[
    float, Field(ge=0, le=1, description="ε of label smoothing: the share spread over all labels")
]
CameraWeight = Annotated[
    float, Field(ge=0, description="λ_cam, the weight of the camera loss; above 0 needs cameras")
]
ClassifierRows = Annotated[
    PositiveInt,
    Field(le=1_000_000, description="rows of the classifier; more clusters stop the training"),
]
