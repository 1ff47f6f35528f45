from collections.abc import Mapping

class SchemaNotFoundError(Exception):
    message: str

class ValidationError(Exception):
    message: str
    json_path: str

def validate(data: Mapping[str, object], desired_version: str, strict: bool = ...) -> str: ...
def latest_version() -> str: ...
