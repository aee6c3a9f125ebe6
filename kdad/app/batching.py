"""Pictures of many callers judged together: what arrives while a batch is judged is the next one."""

import threading
from concurrent.futures import Future
from queue import Full, Queue

from PIL import Image

from kdad.inference.detector import Detector
from kdad.inference.result import Result

WAITING = 256  # pictures at most, so that memory stays bounded however many ask


class BusyError(Exception):
    """More pictures wait than are taken in."""


class Batcher:
    """A detector that judges pictures of several threads in batches of at most its batch size."""

    def __init__(self, detector: Detector, waiting: int = WAITING):
        self.detector = detector
        self._queue: Queue[tuple[Image.Image, Future[Result]]] = Queue(waiting)
        threading.Thread(target=self._work, daemon=True).start()

    def judge(self, image: Image.Image) -> Result:
        """Judge an upright RGB image together with others that wait. Returns its result.

        Raises `BusyError` where too many wait, and what judging its batch raised.
        """
        future: Future[Result] = Future()
        try:
            self._queue.put_nowait((image, future))
        except Full as error:
            raise BusyError(f"{self._queue.maxsize} pictures wait already: try again in a moment") from error
        return future.result()

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < self.detector.batch_size and not self._queue.empty():
                batch.append(self._queue.get())
            try:
                results = self.detector.judge([image for image, _ in batch])
            except Exception as error:  # handed to those who wait: the next batch may do
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    future.set_result(result)
            del batch  # or the last pictures would be kept until others come
