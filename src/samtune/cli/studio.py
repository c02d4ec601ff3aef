"""The command that opens the studio."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from samtune.cli.common import Flat, Quiet, say
from samtune.config import StudioConfig


def studio(
    source: Path,
    /,
    *,
    model: str = "nano",
    config: Annotated[StudioConfig, Flat] = StudioConfig(),
    quiet: Quiet = False,
) -> None:
    """Annotate images in a browser on this machine, and tune the model on what was accepted; see docs/studio.md.

    Everything accepted is on the disk at once. The page answers on this machine only; from elsewhere use an SSH tunnel.

    Args:
        source: Folder that `samtune prepare` wrote, an export that it reads, or a folder of images.
        model: nano, a hub name, a checkpoint file, a Hugging Face folder or a run.
    """
    from samtune.studio.serve import listening_socket, opened, require_packages, serve

    require_packages()
    from samtune.studio.models import Models

    loaded = Models(model, config.base, config.device)
    with (
        listening_socket(config.port) as listener,
        opened(source, config.out, lambda: loaded, classes=config.classes, quiet=quiet) as found,
    ):
        serve(found, listener, config, say)
