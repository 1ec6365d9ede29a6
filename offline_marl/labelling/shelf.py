"""Clips as the server hands them out: read from the disk, and rendered ahead by a process of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from offline_marl.labelling.clips import NAME
from offline_marl.labelling.makeshift import AGAIN as MAKESHIFT
from offline_marl.labelling.makeshift import clips_of, forget_old, makeshift

PATIENCE = 2.0
"""Seconds to wait for a clip that is being rendered; the page asks again."""
LOOK = 0.05
AGAIN = 5.0
"""Seconds for which a clip that is not there is not asked for again."""
MOST_REMEMBERED = 5_000
BACKLOG = 32_768
"""Bytes that the renderer has not read yet, from which on nothing is added."""
MOST_STARTS = 5
"""How often a renderer that dies is started anew."""


class Shelf:
    """Clips of one folder of comparisons.

    Args:
        path: The folder.
        room: Bytes that they may take.
    """

    def __init__(self, path: Path, room: int) -> None:
        self.path, self.room = path, room
        self.clips = clips_of(path)
        self._process: asyncio.subprocess.Process | None = None
        self._starts = 0
        self._again: dict[str, float] = {}
        self._turn = asyncio.Lock()
        forget_old(self.clips)

    async def want(self, names: Sequence[str]) -> None:
        """Have clips rendered that are not there, the first ones first."""
        now = time.monotonic()
        missing = [name for name in names if now >= self._again.get(name, 0.0) and not self._has(name)]
        if not missing:
            return
        if len(self._again) > MOST_REMEMBERED:
            self._again = {name: until for name, until in self._again.items() if until > now}
        async with self._turn:
            process = await self._running()
            if process is None or process.stdin is None:
                return
            if process.stdin.transport.get_write_buffer_size() > BACKLOG:
                return  # it does not keep up: whoever needs a clip asks for it again
            process.stdin.write(f"{json.dumps(missing)}\n".encode())
            self._again.update(dict.fromkeys(missing, now + AGAIN))

    async def read(self, name: str) -> tuple[bytes, bool] | None:
        """A clip, and whether it lasts, which a makeshift one does not; None if it is not rendered yet."""
        file, waited = self._file(name), 0.0
        while waited < PATIENCE:
            with contextlib.suppress(FileNotFoundError):
                content = await asyncio.to_thread(file.read_bytes)
                with contextlib.suppress(OSError):
                    os.utime(file)
                return content, True
            if waited == 0:  # it may have been deleted since, the renderer have died, or a makeshift one be old
                await self.want([name])
            with contextlib.suppress(FileNotFoundError):
                return await asyncio.to_thread(makeshift(self.clips, name).read_bytes), False
            await asyncio.sleep(LOOK)
            waited += LOOK
        return None

    @property
    def broken(self) -> bool:
        """Whether the renderer has ended so often that it is not begun again."""
        ended = self._process is None or self._process.returncode is not None
        return self._starts >= MOST_STARTS and ended

    def _has(self, name: str) -> bool:
        """Whether a clip need not be asked for: makeshift ones are, when they are some time old."""
        if self._file(name).is_file():
            return True
        try:
            return time.time() < makeshift(self.clips, name).stat().st_mtime + MAKESHIFT
        except OSError:
            return False

    def _file(self, name: str) -> Path:
        """Where a clip lies; a name is no path, and none passes that is anything else."""
        if not NAME.fullmatch(name):
            raise ValueError("That is no clip.")
        return self.clips / f"{name}.json"

    async def _running(self) -> asyncio.subprocess.Process | None:
        if self._process is not None and self._process.returncode is None:
            return self._process
        if self._starts >= MOST_STARTS:
            return None
        self._starts += 1
        words = [sys.executable, "-m", "offline_marl.labelling.renderer", str(self.path), str(self.room)]
        os.makedirs(self.clips, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.PIPE)
        return self._process

    async def close(self) -> None:
        """End the renderer."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()
            await process.wait()
