"""The processes that work together under `torchrun` or `accelerate launch`; one alone where neither was used.

Both launchers describe the group in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), which
torch.distributed reads by itself. Numbers on the host travel by gloo, tensors on GPUs by NCCL. See docs/decisions/0071.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as group

from samtune.errors import ConfigError, SamtuneError

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for a living one that has more to do: the first images may take the encoder minutes.

A process that has died is noticed at once, because its connections close."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that work together. Every method but the properties must be called by all of them.

    Attributes:
        rank: number of this process, from 0; process 0 is the main one, which alone writes files and prints.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on its device.

        Raises:
            SamtuneError: another process has ended.
        """
        if self.is_alone:
            return tensor
        total = tensor.detach().clone()
        with self._connected():
            group.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return bool(self.sum(torch.tensor(float(flag))) > 0)

    def broadcast(self, text: str, *, source: int = 0) -> str:
        """The text that process `source` has."""
        if self.is_alone:
            return text
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        size = torch.tensor(len(content))
        with self._connected():
            group.broadcast(size, source)
            content = content if self.rank == source else torch.zeros(int(size), dtype=torch.uint8)
            group.broadcast(content, source)
        return bytes(content.tolist()).decode()

    def all_or_none(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, done by every process; where it fails in one of them, all end.

        Raises:
            SamtuneError: it failed; raised in the main process.
            SystemExit: it failed; raised in the others, which have nothing to add to the main process's message.
        """
        if self.is_alone:
            return work()
        result: list[Result] = []
        failure = ""
        try:
            result.append(work())
        except SamtuneError as error:
            failure = _to_text(error)
        if not self.any(bool(failure)):
            return result[0]
        failures = [self.broadcast(failure, source=rank) for rank in range(self.count)]
        rank, text = next((rank, text) for rank, text in enumerate(failures) if text)
        raise self.failure(_from_text(text, f" (in process {rank})" if rank else ""))

    def on_main(self, work: Callable[[], str | None]) -> str:
        """The text, if any, of `work`, done by the main process while the others wait; errors as in `all_or_none`."""
        return self.broadcast(self.all_or_none(lambda: (work() if self.is_main else None) or ""))

    def failure(self, error: SamtuneError) -> SamtuneError | SystemExit:
        """What each process raises for an error that all of them have found: the main process alone reports it."""
        return error if self.is_main else SystemExit(error.exit_code)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Turns what torch raises when a connection breaks into a message for users."""
        try:
            yield
        except RuntimeError as error:
            raise SamtuneError.of(
                expected=f"{self.count} processes that train together",
                found=f"process {self.rank} lost the connection to another one, which has ended",
                do="look for that process's own message; then start the same command with --resume RUN",
            ) from error


def join_processes() -> Processes:
    """Join the processes that a launcher has started, or stay alone where none has.

    Raises:
        ConfigError: the environment describes a group that cannot be joined.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    if not group.is_initialized():
        try:
            group.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
        except (ValueError, RuntimeError) as error:
            raise ConfigError.of(
                expected="a group of processes to join, since WORLD_SIZE is set",
                found=str(error).splitlines()[0],
                do="start with torchrun or accelerate launch, or unset WORLD_SIZE",
            ) from error
        atexit.register(_leave)
    return Processes(group.get_rank(), group.get_world_size())


def _leave() -> None:
    if group.is_initialized():
        group.destroy_process_group()


def _to_text(error: SamtuneError) -> str:
    parts = {"expected": error.expected, "found": error.found, "where": error.where, "do": error.do}
    return json.dumps({"type": type(error).__name__, **parts})


def _from_text(text: str, note: str) -> SamtuneError:
    """The error that another process has had, its class included; `note` says whose it was."""
    parts = json.loads(text)
    name = parts.pop("type")
    kind = next((known for known in _subclasses(SamtuneError) if known.__name__ == name), SamtuneError)
    return kind.of(**parts | {"found": parts["found"] + note})


def _subclasses(kind: type[SamtuneError]) -> Iterator[type[SamtuneError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _subclasses(below)
