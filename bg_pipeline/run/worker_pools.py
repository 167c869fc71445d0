"""The threads that process images."""

from concurrent.futures import ThreadPoolExecutor

from bg_pipeline.imaging import malloc


class WorkerPools:
    """The thread pools of one run.

    ``images`` processes one image per thread. ``prompts`` processes several prompts of one image at once; it is
    separate, because an image's thread waits for its prompts.
    """

    def __init__(self, threads: int) -> None:
        malloc.configure_malloc(malloc.FOR_FILES)
        self.images = ThreadPoolExecutor(threads, "image")
        self.prompts = ThreadPoolExecutor(threads, "prompt")

    def shutdown(self) -> None:
        """Cancels what has not started and waits for what is running.

        If an interrupt ends the waiting, the idle threads end all the same.
        """
        try:
            self.images.shutdown(wait=True, cancel_futures=True)
            self.prompts.shutdown(wait=True, cancel_futures=True)
        finally:
            self.images.shutdown(wait=False)
            self.prompts.shutdown(wait=False)
