from typing import Any, Protocol

class Query(Protocol):
    sql: str
    parameters: list[str] | None

    def __call__(self, connection: object, *rows: object, **parameters: object) -> Any: ...

class Queries:
    @property
    def available_queries(self) -> list[str]: ...
    def __getattr__(self, name: str) -> Query: ...
