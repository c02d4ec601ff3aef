"""A studio without a model in a process of its own, to be killed: prints its port, serves until the end."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from samtune.studio.app import guarded_app
from samtune.studio.serve import listening_socket, opened
from samtune.studio.tuning import Tuning
from tests.studio_server import TOKEN, no_model


def main(images: Path, folder: Path) -> None:
    with opened(images, folder, no_model, quiet=True) as studio:
        listener = listening_socket(0)
        port = listener.getsockname()[1]
        app = guarded_app(studio, Tuning(studio), port, TOKEN)
        config = uvicorn.Config(app, lifespan="off", log_level="warning", ws="none")
        print(port, flush=True)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
