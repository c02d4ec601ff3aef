"""Clips: a folder of frames, or a video file (PyAV, `samtune[video]`), read frame by frame in any order of blocks.

Of a clip one frame at a time is in memory; backwards, of a video file, `BLOCK` frames. All frames have one size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samtune.config.inference import VIDEO_SUFFIXES, is_video_file
from samtune.data.images import MAX_PIXELS, probe_image, read_image
from samtune.data.reading import PLAIN, Reading
from samtune.errors import DataError, UsageError
from samtune.inference.files import image_files

if TYPE_CHECKING:
    from av.container import InputContainer

BLOCK = 32
"""Frames of a video file that are decoded at once to go backwards."""
FRAMES_PER_SECOND = 24.0
"""Of a folder of frames, which does not say."""

Pixels = NDArray[np.uint8]


class Clip(ABC):
    """Frames in order.

    Attributes:
        path: the folder or file.
        size: (H, W) of every frame in pixels.
        names: the file name of each frame; of a video file, its number as `00000.png`.
        rate: frames per second.
    """

    path: Path
    size: tuple[int, int]
    names: tuple[str, ...]
    rate: float

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def frames(self, start: int, stop: int) -> Iterator[Pixels]:
        """Frames `start` to `stop` (exclusive), uint8 `[H, W, 3]` RGB each.

        Raises:
            DataError: a frame cannot be decoded, or has another size.
        """

    def backwards(self, start: int) -> Iterator[Pixels]:
        """Frames `start`, `start` - 1, ..., 0; see `frames`."""
        for stop in range(start + 1, 0, -BLOCK):
            yield from reversed(list(self.frames(max(0, stop - BLOCK), stop)))

    def _check_size(self, number: int, size: tuple[int, int]) -> None:
        if size != self.size:
            raise DataError.of(
                expected=f"frames of one size, {self.size[1]} x {self.size[0]} as the first",
                found=f"{size[1]} x {size[0]} pixels",
                where=f"{self.path}, frame {number} ({self.names[number]})",
                do="scale the frames to one size, or split the clip where the size changes",
            )


class FrameFolder(Clip):
    """Image files in the order of their names.

    Raises:
        DataError: no images, one that is damaged, or sizes that differ; headers only are read.
    """

    def __init__(self, path: Path, reading: Reading = PLAIN) -> None:
        self.path, self.rate, self._reading = path, FRAMES_PER_SECOND, reading
        self._files = image_files(path)
        self.names = tuple(file.name for file in self._files)
        stems = [file.stem for file in self._files]
        if len(set(stems)) < len(stems):
            double = next(name for name in stems if stems.count(name) > 1)
            raise DataError.of(
                expected="one file for each frame", found=f"several named {double}", where=str(path), do="keep one"
            )
        for number, file in enumerate(self._files):
            width, height = probe_image(file, reading).upright_size
            if number == 0:
                self.size = (height, width)
            self._check_size(number, (height, width))

    def frames(self, start: int, stop: int) -> Iterator[Pixels]:
        """See `Clip.frames`."""
        for file in self._files[start:stop]:
            yield read_image(file, reading=self._reading)

    def backwards(self, start: int) -> Iterator[Pixels]:
        """See `Clip.backwards`; files are read one by one."""
        for number in range(start, -1, -1):
            yield from self.frames(number, number + 1)


class VideoFile(Clip):
    """A video file. Opening reads the packets' times, not the images; phones' rotation is applied.

    Raises:
        DataError: no video, too large, or no frames.
        UsageError: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._av = path, import_av(path)
        try:
            with self._open() as container:
                self._times, self.rate = self._index(container)
            self.names = tuple(f"{number:05}.png" for number in range(len(self._times)))
            with self._open() as container:
                first = next(container.decode(video=0))
                self.size = (first.height, first.width)
                if first.rotation % 180:
                    self.size = (first.width, first.height)
        except (self._av.error.FFmpegError, StopIteration, OSError, IndexError, MemoryError) as error:
            raise self._refuse("a file that cannot be decoded", error) from error

    def _open(self) -> InputContainer:
        """The file alone: a playlist in it may not name anything on a network."""
        return self._av.open(str(self.path), container_options={"protocol_whitelist": "file"})

    def _index(self, container: InputContainer) -> tuple[list[int], float]:
        """Presentation times of all frames, in order, and the frames per second."""
        if not container.streams.video:
            raise self._refuse("a file without a video stream")
        stream = container.streams.video[0]
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            raise self._refuse(
                f"{stream.codec_context.width} x {stream.codec_context.height} pixels, which is too many"
            )
        times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        if len(set(times)) < len(times) or not times:
            raise self._refuse("frames without times of their own" if times else "no frames")
        return times, float(stream.average_rate or FRAMES_PER_SECOND)

    def _refuse(self, found: str, error: Exception | None = None) -> DataError:
        because = f": {error}" if error and str(error) else ""
        return DataError.of(
            expected="a video file",
            found=f"{found}{because}",
            where=str(self.path),
            do="write its frames to a folder with a tool that reads it (ffmpeg -i CLIP frames/%05d.png)",
        )

    def frames(self, start: int, stop: int) -> Iterator[Pixels]:
        """See `Clip.frames`. Decoding starts at the last key frame before `start`."""
        return self._frames(start, stop, seek=start > 0)

    def _frames(self, start: int, stop: int, *, seek: bool) -> Iterator[Pixels]:
        expected = start
        try:
            with self._open() as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                if seek:
                    container.seek(self._times[start], stream=stream)
                for frame in container.decode(stream):
                    if frame.pts is None or frame.pts < self._times[expected]:
                        continue
                    if frame.pts != self._times[expected]:
                        break  # one was left out: a damaged one, or one that needs images before the key frame
                    image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    self._check_size(expected, image.shape[:2])
                    yield np.ascontiguousarray(image, np.uint8)
                    expected += 1
                    if expected == stop:
                        return
        except (self._av.error.FFmpegError, OSError, MemoryError) as error:
            raise self._damaged(expected, str(error)) from error
        if seek and expected == start:
            yield from self._frames(start, stop, seek=False)
        elif expected < stop:
            raise self._damaged(expected, "nothing that decodes")

    def _damaged(self, number: int, found: str) -> DataError:
        return DataError.of(
            expected=f"{len(self)} frames that can be decoded",
            found=found,
            where=f"{self.path}, frame {number}",
            do="cut the clip before this frame, or write its frames to a folder (ffmpeg -i CLIP frames/%05d.png)",
        )


def open_clip(path: Path, reading: Reading = PLAIN) -> Clip:
    """A folder of frames, or a video file.

    Raises:
        DataError: neither, or damaged; see `FrameFolder` and `VideoFile`.
        UsageError: a video file, and PyAV is not installed.
    """
    if path.is_file() and not is_video_file(path):
        raise DataError.of(
            expected=f"a folder of frames, or a video file ({', '.join(sorted(VIDEO_SUFFIXES))})",
            found=f"a file named *{path.suffix}",
            where=str(path),
        )
    return VideoFile(path) if is_video_file(path) else FrameFolder(path, reading)


def import_av(path: Path) -> Any:
    """The PyAV module.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UsageError.of(
            expected="PyAV, which reads video files",
            found="an environment without it",
            where=str(path),
            do="pip install 'samtune[video]', or give a folder of frames",
        ) from error
    return av
