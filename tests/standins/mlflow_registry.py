"""A stand-in for the model registry of an MLflow tracking server: the REST calls the tests and QATLadder use, answered as MLflow 3.17 answers.

python mlflow_registry.py PORT
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

models: dict[str, dict[str, Any]] = {}
versions: list[dict[str, Any]] = []
settings = {"down": 0, "token": ""}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/health":
            return self.answer(200, "OK")
        if settings["down"]:
            settings["down"] -= 1
            return self.answer(503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "down"})
        if settings["token"] and self.headers.get("Authorization") != settings["token"]:
            return self.answer(401, {"error_code": "UNAUTHENTICATED", "message": "who are you?"})
        if url.path.endswith("/model-versions/search"):
            assert query["order_by"] == "creation_timestamp DESC", query
            start, size = int(query.get("page_token", 0)), int(query["max_results"])
            found = sorted(versions, key=lambda item: -item["creation_timestamp"])
            page = {"model_versions": found[start : start + size]} if found[start:] else {}
            return self.answer(200, {**page, "next_page_token": str(start + size)} if start + size < len(found) else page)
        if url.path.endswith("/registered-models/get"):
            if query["name"] not in models:
                return self.answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no {query['name']}"})
            return self.answer(200, {"registered_model": models[query["name"]]})
        return self.answer(404, {"error_code": "ENDPOINT_NOT_FOUND"})

    def do_POST(self) -> None:
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        now = int(time.time() * 1000)
        tags = {"tags": data["tags"]} if data.get("tags") else {}
        if self.path.endswith("/registered-models/create"):
            models[data["name"]] = {"name": data["name"], "creation_timestamp": now, **tags}
            return self.answer(200, {"registered_model": models[data["name"]]})
        if self.path.endswith("/model-versions/create"):
            number = 1 + sum(item["name"] == data["name"] for item in versions)
            versions.append(
                {
                    "name": data["name"],
                    "version": str(number),
                    "creation_timestamp": now,
                    "status": "READY",
                    "source": data["source"],
                    **tags,
                }
            )
            return self.answer(200, {"model_version": versions[-1]})
        if self.path.endswith("/model-versions/set-tag"):
            (item,) = [item for item in versions if (item["name"], item["version"]) == (data["name"], data["version"])]
            item["tags"] = [*item.get("tags", []), {"key": data["key"], "value": data["value"]}]
            return self.answer(200, {})
        if self.path == "/settings":  # of the stand-in alone
            settings.update(data)
            return self.answer(200, {})
        return self.answer(404, {"error_code": "ENDPOINT_NOT_FOUND"})

    def answer(self, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
