"""The one base of all models: frozen, and strict about names, so that a misspelt key is an error and not a silence."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """A frozen value. Unknown keys are refused; fields may be given by name or by alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
