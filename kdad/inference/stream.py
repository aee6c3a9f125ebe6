"""Many files judged one batch after the other: read ahead on threads, with no more in memory than two batches."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from kdad.data.decoding import start_threads
from kdad.errors import UserError
from kdad.inference.detector import Detector
from kdad.inference.inputs import Item
from kdad.inference.prepared import Prepared
from kdad.inference.result import Result

Read = tuple[Image.Image, Prepared]


def judge_files(detector: Detector, items: Iterable[Item | None]) -> Iterator[tuple[Item, Result | UserError]]:
    """Judge files in their order. Yields each with its result, or with the error of one that cannot be read.

    None among the items stands for a pause: what waits for its batch to fill is judged then.
    """

    def read(item: Item) -> Read:
        image = detector.open_picture(item.path)
        return image, detector.read(image, item.path)

    waiting: deque[tuple[Item, Future[Read]]] = deque()

    def judge_waiting(most: int) -> Iterator[tuple[Item, Result | UserError]]:
        taken = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        errors: dict[int, UserError] = {}
        parts: dict[int, Read] = {}
        for place, (_, future) in enumerate(taken):
            try:
                parts[place] = future.result()
            except UserError as error:
                errors[place] = error
        results: dict[int, Result] = {}
        if parts:
            images, prepared = zip(*parts.values(), strict=True)
            found = detector.judge_prepared(prepared, images, [taken[place][0].path for place in parts])
            results = dict(zip(parts, found, strict=True))
        for place, (item, _) in enumerate(taken):
            yield item, results.get(place) or errors[place]

    with start_threads() as threads:
        try:
            for item in items:
                if item is None:
                    yield from judge_waiting(len(waiting))
                    continue
                waiting.append((item, threads.submit(read, item)))
                if len(waiting) >= 2 * detector.batch_size:
                    yield from judge_waiting(detector.batch_size)
            while waiting:
                yield from judge_waiting(detector.batch_size)
        finally:
            _cancel(threads, waiting)


def _cancel(threads: ThreadPoolExecutor, waiting: deque[tuple[Item, Future[Read]]]) -> None:
    for _, future in waiting:
        future.cancel()
