"""Writes docs/protocol/openapi.json: `python -m isthmus.bridge.openapi > docs/protocol/openapi.json`."""

import json
import sys

from isthmus.bridge.http import make_api
from isthmus.bridge.problems import ProblemBody


def document() -> str:
    """Return the OpenAPI document of the REST API, as it is kept in the documentation."""
    described = make_api().openapi()
    described["components"]["schemas"]["ProblemBody"] = ProblemBody.model_json_schema()
    return json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
