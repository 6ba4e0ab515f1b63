"""The peer of POST /batches: the least that a FastAPI application can do with the same body."""

from __future__ import annotations

from fastapi import FastAPI

from app.schemas import NewBatch
from app.server import Server, bind

app = FastAPI(docs_url=None, redoc_url=None)


@app.post("/batches", status_code=202)
async def create_batch(batch: NewBatch) -> dict[str, str]:
    """Have FastAPI check the body, and answer."""
    return {"task": batch.task}


def main() -> None:
    """Serve on a free port with the service's own server and settings until a signal ends it."""
    with bind("127.0.0.1", 0) as listener:
        Server(app).run(sockets=[listener])


if __name__ == "__main__":
    main()
