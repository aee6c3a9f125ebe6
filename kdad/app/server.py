"""Detectors over HTTP: `POST /predict` takes a picture and returns JSON."""

import base64
import io
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Annotated, Any

from fastapi import FastAPI, File, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse

import kdad
from kdad.app.batching import Batcher, BusyError
from kdad.errors import UserError
from kdad.inference.pictures import open_upload
from kdad.inference.result import Result

LOCAL = ("localhost", "127.0.0.1", "::1")
ROOM = 64 * 1024  # of a request, for what it holds beside its picture
Message = MutableMapping[str, Any]


class RefusedError(Exception):
    """A request that is refused: a status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class LimitBody:
    """Refuse requests of more than so many bytes, without reading them to the end."""

    def __init__(self, app: Any, most: int, sentence: str):
        self.app, self.most, self.sentence = app, most, sentence

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > self.most:
            await JSONResponse({"error": self.sentence}, 413)(scope, receive, send)
            return
        read, answered = 0, False

        async def count() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                raise RefusedError(413, self.sentence)
            return message

        async def note(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, count, note)
        except RefusedError as error:
            if answered:
                raise
            await JSONResponse({"error": error.sentence}, error.status)(scope, receive, send)


def build_server(batchers: Mapping[str, Batcher], megabytes: float, host: str) -> FastAPI:
    """Return the application that answers for detectors of these names; the first is asked where none is named.

    Requests of more than `megabytes` are refused; where `host` is this machine alone, so are those for another host's
    name, which a foreign page could send through a browser.
    """
    app = FastAPI(title="kdad", version=kdad.__version__, docs_url=None, redoc_url=None)
    most = int(megabytes * 1e6) + ROOM
    app.add_middleware(LimitBody, most=most, sentence=f"a picture may have at most {megabytes:g} MB")
    if host in LOCAL:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, "[::1]"])

    @app.exception_handler(RefusedError)
    async def refuse(request: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"error": error.sentence}, error.status)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(request: Request, error: RequestValidationError) -> JSONResponse:
        where = ", ".join(str(part["loc"][-1]) for part in error.errors())
        sentence = f"{where}: send a form with the picture as `image`, such as curl -F image=@part.png"
        return JSONResponse({"error": sentence}, 422)

    @app.get("/detectors")
    def list_detectors() -> list[dict[str, Any]]:
        return [describe_detector(name, batcher) for name, batcher in batchers.items()]

    @app.post("/predict")
    def predict(
        image: Annotated[UploadFile, File()], detector: str | None = None, overlay: bool = False
    ) -> dict[str, Any]:
        name = detector or next(iter(batchers))
        if name not in batchers:
            raise RefusedError(404, f"detector={name}: there is {', '.join(batchers)}")
        try:
            rule = batchers[name].detector.rule
            picture = open_upload(image.file, image.filename or "image", rule)
            result = batchers[name].judge(picture)
        except UserError as error:
            raise RefusedError(422, str(error)) from error
        except BusyError as error:
            raise RefusedError(503, str(error)) from error
        return describe_result(name, result, overlay)

    return app


def describe_detector(name: str, batcher: Batcher) -> dict[str, Any]:
    """Return what a caller may know of a detector; no path is part of it."""
    detector, decision = batcher.detector, batcher.detector.decision
    return {
        "detector": name,
        "model": detector.network.name,
        "image_size": detector.image_size,
        "threshold": decision.image_threshold if decision else None,
        "pixel_threshold": decision.pixel_threshold if decision else None,
    }


def describe_result(name: str, result: Result, overlay: bool) -> dict[str, Any]:
    """Return a result as JSON: score, normalised score, decision, share of anomalous pixels, and a PNG if asked for."""
    told: dict[str, Any] = {
        "detector": name,
        "score": result.score,
        "normalised_score": result.normalised,
        "is_anomalous": result.is_anomalous,
        "area": result.area,
        "width": result.image.width,
        "height": result.image.height,
    }
    if overlay:
        if result.decision is None:
            raise RefusedError(409, f"{name} has no thresholds, from which an overlay's colours come: kdad calibrate")
        file = io.BytesIO()
        result.overlay().save(file, "PNG")
        told["overlay_png"] = base64.b64encode(file.getvalue()).decode()
    json.dumps(told, allow_nan=False)  # a diverged detector is a failure here, and no invalid answer
    return told
