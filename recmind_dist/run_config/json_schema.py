"""The JSON Schema of a config, for editors: `recmind schema > recmind.schema.json`."""

from typing import Any

from recmind_dist.model.settings import DEFAULT_KIND, MODELS
from recmind_dist.run_config.run_config import RunConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """Of a config file as `load_run_config` reads it. What two keys may not be together, and what
    is looked up in the data, a schema cannot say: `recmind validate` does.
    """
    schema = RunConfig.model_json_schema()
    for kind, settings in MODELS.items():
        if kind != DEFAULT_KIND:  # else a model without `kind` would be of several classes
            schema["$defs"][settings.__name__]["required"] = ["kind"]
    return {"$schema": DIALECT, **schema, "title": "A config of recmind_dist"}
