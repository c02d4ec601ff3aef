"""Starting and ending a studio: its folder, its port, its token, the browser."""

from __future__ import annotations

import errno
import json
import secrets
import shutil
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from samtune.config import StudioConfig
from samtune.errors import ConfigError, DataError, UsageError
from samtune.studio.sources import add_source, open_source
from samtune.studio.store import Store
from samtune.studio.studio import Studio
from samtune.utils.files import write_json
from samtune.utils.output_folders import check_output
from samtune.utils.progress import progress

if TYPE_CHECKING:
    from samtune.studio.models import Models

ABOUT = "studio.json"
FORMAT = 1
STUDIOS = "studio"
"""Folder for the studios that were given none."""
ONE_CLASS = "object"
LOOPBACK = "127.0.0.1"


def require_packages() -> None:
    """Refuse to start where the web packages are not installed.

    Raises:
        UsageError: FastAPI or uvicorn is missing.
    """
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UsageError.of(
            expected="the packages of samtune's studio",
            found=f"no {' and no '.join(missing)}",
            do="pip install 'samtune[studio]'",
        )


@contextmanager
def opened(
    source: Path, out: Path | None, load: Callable[[], Models], *, classes: Sequence[str] = (), quiet: bool = False
) -> Iterator[Studio]:
    """A studio in its folder, which is closed in the end.

    Args:
        source: dataset, export or folder of images.
        out: the studio's folder; an earlier one of the same source goes on. Left out, `studio/NAME`.
        load: loads the models, when the first is needed.
        classes: to begin with; where there are none at all, there is one called object.
        quiet: show no progress.

    Raises:
        ConfigError: `out` holds something else, or the studio of another source.
        UsageError: another process has it open.
        DataError: the source cannot be read.
        StorageError: the disk refused.
    """
    name = source.resolve().stem
    folder = out or Path(STUDIOS) / name
    check_output(folder, mark=ABOUT, earlier="an earlier studio", inputs=[source])
    is_new = _check_source(source, folder)
    if is_new:
        write_json(folder / ABOUT, {"format": FORMAT, "source": str(source.resolve())})
    store = Store(folder)
    try:
        with progress("preparing", quiet=quiet) as advance:
            found = open_source(source, folder, advance)
        with progress("importing", quiet=quiet) as advance:
            add_source(store, found, advance)
        for one in classes or ([] if store.state.categories else [ONE_CLASS]):
            store.add_category(one)
        studio = Studio(name, found, store, load)
    except BaseException:
        store.close()
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        yield studio
    finally:
        studio.close()


def listening_socket(port: int) -> socket.socket:
    """A socket on this machine's loopback address; port 0 takes any free one.

    Its protocol is named, because asyncio switches Nagle's algorithm off only where it is: an answer in two parts,
    head and body, otherwise waits 40 ms for the other side to confirm the head.

    Raises:
        UsageError: the port is taken, or not allowed.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise UsageError.of(
            expected="a free port",
            found=f"port {port}, which is taken" if taken else f"port {port}: {(error.strerror or str(error)).lower()}",
            where="--port",
            do="leave --port out: any free one is taken",
        ) from error
    return listener


def serve(studio: Studio, listener: socket.socket, config: StudioConfig, say: Callable[[str], None]) -> None:
    """Answer the page until the process is told to end.

    Args:
        studio: what to serve.
        listener: where, as `listening_socket` gives it; it is closed in the end.
        config: browser, what to open first.
        say: takes lines for the person: the address comes first.

    Raises:
        DataError: the image to open is not in the source.
    """
    import uvicorn

    from samtune.studio.app import guarded_app
    from samtune.studio.tuning import Tuning

    link = link_to(studio, config.image, config.box) if config.image else ""
    _ = studio.engine  # one for all threads that will ask
    port, token = int(listener.getsockname()[1]), secrets.token_urlsafe(24)
    address = f"http://{LOOPBACK}:{port}/?token={token}{link}"
    settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False, "ws": "none"}
    settings |= {"lifespan": "off", "timeout_graceful_shutdown": 5}
    say(f"studio     {address}")
    say(f"folder     {studio.store.folder}")
    say("end it with Ctrl-C; everything accepted is on the disk")
    if config.browser:
        threading.Thread(target=_open_browser, args=(address, say), daemon=True).start()
    with listener, closing(Tuning(studio)) as tuning:
        app = guarded_app(studio, tuning, port, token)
        server = uvicorn.Server(uvicorn.Config(app, **settings))
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with suppress(KeyboardInterrupt):  # uvicorn ends well at a signal, and then sends it again
                server.run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)


def link_to(studio: Studio, name: str, box: str) -> str:
    """The end of the page's address that opens an image, and selects the object whose box agrees most with `box`.

    Args:
        name: the image's path in the source, or a file name that no other image has.
        box: x0,y0,x1,y1 in pixels; empty selects nothing.

    Raises:
        DataError: there is no such image, or several.
    """
    paths = {number: image.key.partition("#")[0] for number, image in studio.store.state.images.items()}
    found = [number for number, path in paths.items() if path == name]
    found = found or [number for number, path in paths.items() if Path(path).name == name]
    if not found or len({paths[number] for number in found}) > 1:
        raise DataError.of(
            expected="the name of one image of the source",
            found=f"{name!r}, which " + (f"{len(found)} images have" if found else "none has"),
            where="--image",
            do="give its path in the source, such as " + next(iter(paths.values()), "images/1.jpg"),
        )
    return "#" + urlencode({"image": found[0]} | ({"box": box} if box else {}))


def _open_browser(address: str, say: Callable[[str], None]) -> None:
    try:
        is_open = webbrowser.open(address)
    except webbrowser.Error:
        is_open = False
    if not is_open:
        say("no browser could be opened here: open the address above in one")


def _check_source(source: Path, folder: Path) -> bool:
    """Whether the folder is a new one; refused where it is the studio of another source, or inside of this one."""
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise ConfigError.of(
            expected="a studio's folder outside of the images",
            found="one inside of them",
            where=str(folder),
            do="choose another --out",
        )
    about = folder / ABOUT
    if not about.is_file():
        return True
    try:
        content = json.loads(about.read_text(encoding="utf-8"))
        before, version = str(content["source"]), int(content["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError.of(expected="a studio's folder", found=str(error), where=str(about)) from error
    if version != FORMAT:
        raise DataError.of(expected=f"a studio of format {FORMAT}", found=f"format {version}", where=str(about))
    if before != str(source.resolve()):
        raise ConfigError.of(
            expected=f"the studio of {source}",
            found=f"that of {before}",
            where=str(folder),
            do=f"choose another --out; or, where the source was moved, write its new place into {ABOUT}",
        )
    return False
