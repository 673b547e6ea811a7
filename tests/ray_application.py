"""A Ray Serve application that speaks the OpenAI chat route: two replicas behind Ray's proxy.

    .venv-works-with/bin/python tests/ray_application.py PORT DIRECTORY

It stands for Ray Serve LLM, whose engine is vLLM on a GPU: proxy, replicas and routing are Ray's.
SIGTERM ends it with all that Ray has started.
"""

# No postponed annotations: FastAPI reads them in a process where this module has another name.
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import ray
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve

NAME = "qwen-0.5b"
api = FastAPI()


def _stream() -> Iterator[str]:
    for word, finish in (("a", None), ("b", None), (None, "stop")):
        delta = {} if word is None else {"content": word}
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"object": "chat.completion.chunk", "model": NAME, "choices": [choice]}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})
@serve.ingress(api)
class Ingress:
    @api.get("/v1/models")
    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": NAME, "object": "model"}]}

    @api.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        body = await request.json()
        if body["model"] != NAME:
            error = {"message": f"The model {body['model']} does not exist.", "code": 404}
            return JSONResponse({"error": error}, 404)
        if body.get("stream"):
            return StreamingResponse(_stream(), media_type="text/event-stream")
        message = {"role": "assistant", "content": f"replica {os.getpid()}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({"object": "chat.completion", "model": NAME, "choices": [choice]})


def main(port: int, directory: str) -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,  # the least that it takes
        log_to_driver=False,
        _temp_dir=directory,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(Ingress.bind())
        signal.pause()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
