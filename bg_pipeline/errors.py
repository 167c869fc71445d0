"""All errors that the pipeline raises on purpose, and what each means for an image and for a run.

An `ImageError` or a `CallError` ends one output of one image and becomes a row of the report. A `RunStopped` ends a
whole run; what was finished before is kept and reported. Any other exception is a bug: while an image is processed
it becomes a row too, elsewhere it propagates.
"""

from collections.abc import Sequence


class BgPipelineError(Exception):
    """An expected error; its text is written for the user."""


class SettingsError(BgPipelineError):
    """A setting is missing or invalid; the text names the setting and the valid values."""


class UsageError(BgPipelineError):
    """The caller asked for something impossible; nothing was done."""


class NoSuchBatch(UsageError):
    """There is no such batch, or none that this person may see: the text is the same."""


class NotAllowed(UsageError):
    """This person may not do that; the text says which role may."""


class RequestError(BgPipelineError):
    """A batch request is invalid; no image of it is processed.

    ``problems`` are pairs of (field, sentence). The field is spelt as in the request, for example
    ``Images[3].Mode``.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{field}: {text}" if field else text for field, text in self.problems))


class NewerDocument(BgPipelineError):
    """A stored document has the format of a newer bg_pipeline version, which this one does not know or change."""


class PreconditionFailed(BgPipelineError):
    """A conditional write failed because another process has changed, created or deleted the object."""


class ImageError(BgPipelineError):
    """This image, mask or backdrop cannot be used and trying again would not help: its row fails permanently.

    ``code`` becomes the row's ``Error`` and the text its ``Cause``.
    """

    def __init__(self, code: str, cause: str) -> None:
        super().__init__(cause)
        self.code = code

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.code, str(self))

    def of(self, name: str) -> "ImageError":
        """The same error of a file that is not the row's photo, such as its mask: the text begins with its name."""
        return type(self)(self.code, f"{name}: {self}")


def missing_file(key: str) -> ImageError:
    """The error of an image whose mask or backdrop does not exist."""
    return ImageError("NotFound", f"the request names {key}, and there is no such object")


class SourceUnreadable(ImageError):
    """S3 refuses to return this photo, mask or backdrop; the next run after the access is fixed processes it."""


class NeedsReview(ImageError):
    """A mask or a result failed its checks and is kept so that a person can look at it."""


class NotTried(ImageError):
    """Nothing was tried and nothing spent for this image, because something is missing that may still arrive."""


class CallError(BgPipelineError):
    """A service call for one image failed; ``code`` is the service's own error code.

    ``transient`` is whether the next run may repeat the call. ``repeated`` is set if the call failed for another
    image and was not made for this one.
    """

    transient = False
    repeated = False

    def __init__(self, code: str, cause: str) -> None:
        super().__init__(cause)
        self.code = code

    def __reduce__(self) -> tuple[type["CallError"], tuple[str, str]]:
        return type(self), (self.code, str(self))


class Transient(CallError):
    """The service could not answer now (5xx, 408, 424, or the connection broke before anything was sent)."""

    transient = True


class OutcomeUnknown(Transient):
    """The call was sent and its outcome is not known: it may have been billed."""


class ClaimLost(Transient):
    """Another process has taken over this call and makes it; this process called nothing."""


class NotDelivered(Transient):
    """S3 did not accept a result or a batch document; the paid answer is stored and the next run uses it."""


class Throttled(Transient):
    """The service refused the call because of its rate; the rate limiter repeats it, and no attempt is counted."""


class Blocked(CallError):
    """The model's content policy refused the call; the text is the model's. It is never repeated unchanged."""


class SubjectNotFound(CallError):
    """The model found nothing in the picture that matches the words for the mask."""


class ModelUnavailable(CallError):
    """This account cannot use this model now: it is retired, access is not granted, or its subscription is pending.

    ``retired`` models do not come back, ``passing`` faults end without anybody's action. In all other cases the
    account's owner has to act, and the text explains how. ``region`` is the Region that refused, if it is known.
    """

    def __init__(self, code: str, cause: str, *, retired: bool = False, passing: bool = False) -> None:
        super().__init__(code, cause)
        self.retired = retired
        self.passing = passing
        self.region = ""


class RunStopped(BgPipelineError):
    """The run may not spend any more; unfinished images become ``Skipped`` with this text as their cause."""


class LeaseLost(RunStopped):
    """Another run has taken over this batch; this run stops working on it."""

    scope = "batch"


class StorageFailed(RunStopped):
    """S3 does not store the pipeline's own state; nothing is paid for that could not be stored."""

    code = "S3"


class NothingUsable(RunStopped):
    """No configured model can be used, and nothing was spent; the text lists each model with its reason.

    With ``passing`` at least one model only waits until AWS has set up the account's access, so a later run can use
    it. Otherwise somebody has to do what the text asks for.
    """

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing
