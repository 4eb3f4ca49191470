"""Judge recordings in worker processes: several at once, and none of them can take the caller along.

A recording is mapped, and a mapped file that becomes shorter while it is read ends its reader (SIGBUS). So each is read
in a forked process: what ends there is one error about one file. Hashing is bound by the processor, and threads of one
process do not share it well; processes do.
"""

import io
import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Axis, FormatError, Progress, SecguardError, SystemPartError, Throttle, TimeSource, silent
from secguard.trust import TrustPolicy
from secguard.video.containers import map_file
from secguard.video.hashing import hash_range
from secguard.video.verify import Expectation, VideoVerdict, verify

__all__ = ["Answer", "Job", "judge_files"]


@dataclass(frozen=True, slots=True)
class Job:
    """One recording to be judged; the fields are the arguments of `verify`.

    Attributes:
        hashed: also hash the whole file, for the record of the act.
    """

    path: Path
    at: datetime
    expectation: Expectation = field(default_factory=Expectation)
    require: tuple[Axis, ...] = ()
    source: TimeSource | None = None
    hashed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came out of a job: a verdict, or the error that prevented one.

    Attributes:
        number: the job's place among all.
        job: the job.
        verdict: the verdict, unless the file could not be judged.
        error: why not.
        sha256: of the whole file, hex, if the job asked for it.
        seconds: how long it took.
    """

    number: int
    job: Job
    verdict: VideoVerdict | None
    error: SecguardError | None
    sha256: str = ""
    seconds: float = 0.0


class _Pickler(pickle.Pickler):
    """Knows certificates, which do not pickle by themselves."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, x509.Certificate):
            return _certificate, (obj.public_bytes(Encoding.DER),)
        if isinstance(obj, MappingProxyType):
            return MappingProxyType, (dict(obj),)
        return NotImplemented


def _certificate(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _pack(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _judge(number: int, job: Job, trust: TrustPolicy, progress: Progress) -> Answer:
    """One job, in this process."""
    begin = time.perf_counter()
    try:
        verdict = verify(
            job.path, trust, job.at, job.expectation, require=job.require, source=job.source, progress=progress
        )
        sha256 = verdict.sha256
        if job.hashed and not sha256:
            with map_file(job.path) as data:
                sha256 = hash_range(data, 0, len(data)).hex()
    except SecguardError as error:
        return Answer(number, job, None, error, seconds=time.perf_counter() - begin)
    return Answer(number, job, verdict, None, sha256, time.perf_counter() - begin)


def _work(pipe: Connection, others: Sequence[Connection], jobs: Sequence[Job], trust: TrustPolicy) -> None:
    """A worker's life: numbers of jobs in, progress and answers out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the workers
    for other in others:  # inherited ends would keep a dead parent's pipes open
        other.close()
    try:
        while True:
            number = pipe.recv()

            def tell(done: int, total: int | None, unit: str) -> None:
                del unit
                pipe.send_bytes(_pack((done, total)))

            try:
                answer = _judge(number, jobs[number], trust, Throttle(tell))
            except Exception as error:  # noqa: BLE001 - a fault of ours in one file must not silence the others
                what = traceback.format_exception_only(error)[-1].strip()[:200]
                failed = SystemPartError("video.worker.failed", what, where=str(jobs[number].path))
                answer = Answer(number, jobs[number], None, failed)
            pipe.send_bytes(_pack(answer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class _Worker:
    """A forked process and the job it has."""

    def __init__(self, others: Sequence["_Worker"], jobs: Sequence[Job], trust: TrustPolicy) -> None:
        fork = multiprocessing.get_context("fork")
        self.pipe, theirs = fork.Pipe()
        ends = [self.pipe, *(item.pipe for item in others)]
        self.process = fork.Process(target=_work, args=(theirs, ends, jobs, trust), daemon=True)
        self.process.start()
        theirs.close()
        self.number = -1
        self.done = 0

    def give(self, number: int) -> None:
        self.number, self.done = number, 0
        self.pipe.send(number)

    def end(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()

    def dead(self, job: Job) -> Answer:
        """The answer about the file that this worker died of."""
        self.process.join()
        code = self.process.exitcode or 0
        error: SecguardError
        if code == -signal.SIGBUS:
            error = FormatError(
                "video.file.changed",
                "the file became shorter, or its disk failed, while it was read",
                hint="wait until it is written, or verify a copy",
                where=str(job.path),
            )
        else:
            error = SystemPartError(
                "video.worker.killed",
                f"the process that judged it ended with {code}",
                hint="too little memory? try --jobs 1",
                where=str(job.path),
            )
        return Answer(self.number, job, None, error)


def judge_files(
    jobs: Sequence[Job], trust: TrustPolicy, *, processes: int = 1, progress: Progress = silent
) -> Iterator[Answer]:
    """Judge recordings, as many at a time as there are processes; answers come in the order in which they end.

    Closing the iterator ends the processes. Where the system cannot fork, all is done in this process.

    Args:
        jobs: what to judge.
        trust: which roots and revocation lists are believed.
        processes: worker processes.
        progress: called with bytes done, of all files.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        for number, job in enumerate(jobs):
            yield _judge(number, job, trust, progress)
        return
    sizes = [_size(job.path) for job in jobs]
    total, finished = sum(sizes), 0
    waiting = iter(range(len(jobs)))
    workers: list[_Worker] = []
    try:
        for number in waiting:
            workers.append(_Worker(workers, jobs, trust))
            workers[-1].give(number)
            if len(workers) >= max(processes, 1):
                break
        while workers:
            for pipe in wait([worker.pipe for worker in workers]):
                worker = next(item for item in workers if item.pipe is pipe)
                job, size = jobs[worker.number], sizes[worker.number]
                try:
                    message = pickle.loads(worker.pipe.recv_bytes())  # noqa: S301 - from our own fork
                except (EOFError, ConnectionResetError):
                    message = worker.dead(job)
                if isinstance(message, tuple):
                    done, of = message
                    worker.done = size * done // of if of else 0
                    progress(min(finished + sum(item.done for item in workers), total), total, "bytes")
                    continue
                finished += size
                worker.done = 0
                following = next(waiting, None)
                alive = worker.process.is_alive()
                if following is None or not alive:
                    workers.remove(worker)
                    worker.end()
                if following is not None:
                    if not alive:
                        worker = _Worker(workers, jobs, trust)
                        workers.append(worker)
                    worker.give(following)
                progress(min(finished + sum(item.done for item in workers), total), total, "bytes")
                yield message
    finally:
        for worker in workers:
            worker.end()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
