"""The JSON Schema of mapping files, for editors that complete and underline while one is written."""

from __future__ import annotations

from typing import Any

from fixia_shardmig.mapping.file_model import Document

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def mapping_schema() -> dict[str, Any]:
    """Return the schema of a mapping file. It knows the form; names of tables and columns are checked by `plan`."""
    return {"$schema": DIALECT, **Document.model_json_schema(), "title": "shardmig mapping"}
