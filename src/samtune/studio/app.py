"""The studio's addresses: what the page asks, and how each error becomes an answer."""

from __future__ import annotations

import sys
import traceback
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from samtune import __version__
from samtune.errors import DataError, ModelError, RemoteError, SamtuneError, StorageError, UsageError
from samtune.studio.display import Display
from samtune.studio.exporting import export
from samtune.studio.figures import Disagreements, Filter, review, stats
from samtune.studio.masks import pack_mask, region_from, unpack_mask
from samtune.studio.questions import Question
from samtune.studio.requests import (
    ClassBody,
    ExportBody,
    MaskBody,
    ModelBody,
    Nothing,
    ObjectsBody,
    PredictBody,
    TuneBody,
)
from samtune.studio.security import Guarded, error_body
from samtune.studio.state import StudioImage, StudioObject
from samtune.studio.store import ConflictError, NotThereError
from samtune.studio.studio import Studio, packed
from samtune.studio.tuning import Tuning

STATUS: dict[type[SamtuneError], int] = {
    NotThereError: 404,
    ConflictError: 409,
    StorageError: 507,
    DataError: 422,
    ModelError: 422,
    RemoteError: 502,
    UsageError: 400,
}
"""HTTP status of an error; of several classes that fit, the first."""


def guarded_app(studio: Studio, tuning: Tuning, port: int, token: str) -> Guarded:
    """The studio as an ASGI application that answers only its own page."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(SamtuneError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    display = Display(studio.source.dataset)
    _add_images(app, studio, display)
    _add_review(app, studio, display)
    _add_prompts(app, studio)
    _add_state(app, studio, tuning)
    _add_loop(app, studio, tuning)
    app.mount("/", StaticFiles(directory=static_folder(), html=True))
    return Guarded(app, port, token)


def static_folder() -> Path:
    """The page's files, which hold no data."""
    return Path(str(files("samtune.studio") / "static"))


def _add_state(app: FastAPI, studio: Studio, tuning: Tuning) -> None:
    @app.get("/api/state")
    def state() -> dict[str, Any]:
        active = studio.active
        embedder = studio.engine.embedder
        with studio.store.lock:
            images = list(studio.store.state.images.values())
            counts = [len(image.kept) for image in images]
        return {
            "name": studio.name,
            "models": [{"key": key, "label": label} for key, label in studio.models.labels.items()],
            "active": active.key,
            "classes": studio.classes(),
            "images": [
                _image_json(studio, image, count, embedder.is_embedded(active, image.key))
                for image, count in zip(images, counts, strict=True)
            ],
            "tune": tuning.status(),
            "stats": stats(studio),
            "finder": active.finder is not None,
            "finder_note": active.finder_note,
            "problems": [error_body(one)["error"] for one in studio.source.problems],
            "note": studio.source.note,
            "version": __version__,
        }

    @app.post("/api/classes")
    def add_class(body: ClassBody) -> dict[str, Any]:
        one = studio.store.add_category(body.name)
        return {"id": one.id, "name": one.name, "color": one.color}

    @app.post("/api/models/active")
    def switch(body: ModelBody) -> dict[str, Any]:
        studio.switch(body.model)
        return {"active": body.model}


def _add_loop(app: FastAPI, studio: Studio, tuning: Tuning) -> None:
    @app.get("/api/tune")
    def tune_status() -> dict[str, Any]:
        return tuning.status()

    @app.post("/api/tune")
    def tune(body: TuneBody) -> dict[str, Any]:
        return tuning.start(body.steps)

    @app.post("/api/tune/cancel")
    def cancel(body: Nothing) -> dict[str, Any]:
        return tuning.cancel()

    @app.post("/api/export")
    def export_all(body: ExportBody) -> dict[str, Any]:
        found = export(studio, body.format, body.tolerance)
        return {"path": str(found.path.resolve()), "files": found.files, "objects": found.objects}


def _add_review(app: FastAPI, studio: Studio, display: Display) -> None:
    disagreements = Disagreements(studio)

    @app.get("/api/stats")
    def get_stats() -> dict[str, Any]:
        return stats(studio)

    @app.get("/api/disagreements")
    def get_disagreements() -> dict[str, Any]:
        return disagreements.listed()

    @app.get("/api/review")
    def get_review(
        category: Annotated[int | None, Query(alias="class")] = None,
        min_size: Annotated[int | None, Query(ge=0)] = None,
        max_size: Annotated[int | None, Query(ge=0)] = None,
        sort: Literal["size", "iou", "doubt"] = "iou",
    ) -> dict[str, Any]:
        return review(studio, display, Filter(category, min_size, max_size, sort))


def _add_images(app: FastAPI, studio: Studio, display: Display) -> None:
    @app.get("/api/images/{number}/pixels")
    def pixels(number: str, most: Annotated[int, Query(alias="max", ge=16, le=65_500)] = 2048) -> Response:
        content, kind = display.encoded(studio.entry(studio.store.image(number)), most)
        return Response(content, media_type=kind)

    @app.get("/api/images/{number}/objects")
    def objects(number: str) -> dict[str, Any]:
        image = studio.store.image(number)
        with studio.store.lock:
            kept, revision = image.kept, image.revision
        return {"revision": revision, "objects": [_object_json(image, one) for one in kept]}

    @app.post("/api/images/{number}/objects")
    def change(number: str, body: ObjectsBody) -> dict[str, Any]:
        return _change(studio, number, body)


def _add_prompts(app: FastAPI, studio: Studio) -> None:
    @app.post("/api/images/{number}/embed")
    def embed(number: str, body: Nothing) -> dict[str, Any]:
        studio.embed(number)
        return {"embedded": True}

    @app.post("/api/images/{number}/predict")
    def predict(number: str, body: PredictBody) -> dict[str, Any]:
        started = perf_counter()
        answer = studio.ask(number, body.model, _question(body))
        masks = packed(answer.masks)
        return {
            "masks": masks,
            "best": answer.best,
            "object_score": answer.object_score,
            "previous": masks[answer.best]["previous"],
            "milliseconds": 1000 * (perf_counter() - started),
        }

    @app.post("/api/images/{number}/compare")
    def compare(number: str, body: PredictBody) -> dict[str, Any]:
        return studio.compare(number, body.model, _question(body))

    @app.post("/api/images/{number}/proposals")
    def proposals(number: str, body: ModelBody) -> dict[str, Any]:
        ids = {one["name"]: one["id"] for one in studio.classes()}
        first = min(ids.values(), default=None)
        found = studio.propose(number, body.model)
        return {
            "objects": [
                {"mask": pack_mask(one.region), "category_id": ids.get(one.category or "", first), "score": one.iou}
                for one in found
            ]
        }


def _change(studio: Studio, number: str, body: ObjectsBody) -> dict[str, Any]:
    """Carry out what the page says about one image's objects."""
    store, image = studio.store, studio.store.image(number)
    match body.action:
        case "accept":
            assert body.object is not None
            about = body.object.model_dump(include={"clicks", "seconds", "iou", "source", "model"})
            region = _region(image, body.object.mask)
            one, revision = store.accept(number, region, body.object.category_id, body.revision, **about)
            return {"id": one.id, "revision": revision}
        case "status":
            assert body.status is not None
            return {"revision": store.set_status(number, body.status, body.revision)}
        case "update":
            assert body.id is not None
            region = None if body.mask is None else _region(image, body.mask)
            changed = store.change(number, body.id, body.revision, category_id=body.category_id, region=region)
            return {"id": body.id, "revision": changed}
        case "delete" | "restore":
            assert body.id is not None
            changed = store.delete(number, body.id, body.revision, back=body.action == "restore")
            return {"id": body.id, "revision": changed}


def _region(image: StudioImage, mask: MaskBody) -> Any:
    return unpack_mask(mask.bbox, mask.png, image.height, image.width)


def _question(body: PredictBody) -> Question:
    return Question(body.box, body.points, body.labels, body.previous, body.multimask)


def _image_json(studio: Studio, image: StudioImage, objects: int, embedded: bool) -> dict[str, Any]:
    return {
        "id": image.id,
        "name": image.key.replace("#", " ").strip(),
        "width": image.width,
        "height": image.height,
        "objects": objects,
        "status": image.status,
        "embedded": embedded,
        "doubt": studio.doubt(image),
        "split": image.split,
    }


def _object_json(image: StudioImage, one: StudioObject) -> dict[str, Any]:
    region = region_from(one.counts, image.height, image.width)
    names = ("id", "category_id", "iou", "clicks", "seconds", "source", "model")
    return {name: getattr(one, name) for name in names} | {"mask": pack_mask(region)}


def _on_error(request: Request, error: Any) -> Response:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    more = {"revision": error.revision} if isinstance(error, ConflictError) else {}
    return JSONResponse(error_body(error, **more), status)


def _on_invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    found = UsageError.of(expected="a request as docs/studio.md describes", found=str(first["msg"]), where=where)
    return JSONResponse(error_body(found), 400)


def _on_http(request: Request, error: Any) -> Response:
    found = UsageError.of(expected="an address of the studio", found=str(error.detail), where=request.url.path)
    return JSONResponse(error_body(found), error.status_code)


def _on_bug(request: Request, error: Any) -> Response:
    traceback.print_exception(error, file=sys.stderr)
    found = SamtuneError.of(
        expected="an answer",
        found=f"a mistake in samtune: {type(error).__name__}",
        where=request.url.path,
        do="the terminal of samtune studio shows more; please report it",
    )
    return JSONResponse(error_body(found), 500)
