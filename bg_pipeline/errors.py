"""Every error the pipeline raises on purpose, and what each means for an image and for a run.

An `ImageError` or a `CallError` ends one output of one image and becomes a row of the report; a
`RunStopped` ends the spending of a whole run, with everything so far kept and reported. Anything else
that escapes is a bug: while an image is worked on it becomes a row, too, and elsewhere it propagates.
"""

from collections.abc import Sequence


class BgPipelineError(Exception):
    """An expected error whose text is written for the person who meets it."""


class SettingsError(BgPipelineError):
    """A setting is missing or wrong; the text names it and says what it takes."""


class UsageError(BgPipelineError):
    """The caller asked for something that cannot be done as asked; nothing was done."""


class RequestError(BgPipelineError):
    """A batch request breaks its contract; nothing of it is run.

    ``problems`` are pairs of (field, sentence), the field as the writer of the request spelt it, for
    example ``Images[3].Mode``.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{field}: {text}" if field else text for field, text in self.problems))


class NewerDocument(BgPipelineError):
    """A newer bg_pipeline wrote a document in a form that this one does not know; it is left as it is."""


class PreconditionFailed(BgPipelineError):
    """A conditional write found the object changed, present or gone: somebody else was first."""


class ImageError(BgPipelineError):
    """This image, mask or backdrop cannot be used, whatever is done again: a permanent failure of its row.

    ``code`` goes into the row's ``Error`` and the text into its ``Cause``.
    """

    def __init__(self, code: str, cause: str) -> None:
        super().__init__(cause)
        self.code = code

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.code, str(self))


class SourceUnreadable(ImageError):
    """S3 does not hand out this photo, mask or backdrop now; once that is mended the next run works on it."""


class NeedsReview(ImageError):
    """A mask or a result did not pass its checks and is kept for a person to look at."""


class NotTried(ImageError):
    """Nothing was tried for this image, and nothing spent: something is missing that may come."""


class CallError(BgPipelineError):
    """A service call for one image failed; ``code`` is the service's own error code.

    ``transient`` says whether the next run may do it again.
    """

    transient = False

    def __init__(self, code: str, cause: str) -> None:
        super().__init__(cause)
        self.code = code

    def __reduce__(self) -> tuple[type["CallError"], tuple[str, str]]:
        return type(self), (self.code, str(self))


class Transient(CallError):
    """The service could not answer now (5xx, 408, 424, a broken connection before anything was sent)."""

    transient = True


class OutcomeUnknown(Transient):
    """The call was sent and its end is not known: it may have been billed."""


class ClaimLost(Transient):
    """Another process has taken this call over and makes it; nothing was called."""


class NotDelivered(Transient):
    """S3 did not take a result or a document of a batch; what was paid for it is stored and serves the next run."""


class Throttled(Transient):
    """The service refused the call for its rate; it goes back to the gate and counts for nothing."""


class Blocked(CallError):
    """The model's content policy refused, in the model's words; never retried unchanged."""


class SubjectNotFound(CallError):
    """The model found nothing in the picture that fits the mask's words."""


class ModelUnavailable(CallError):
    """This account cannot use this model now: retired, not granted, or its subscription is pending.

    ``retired`` is what will not come back, ``passing`` what passes without anybody doing anything; the rest the
    account's owner can mend, and the text says how. ``region`` is where it was refused, once that is known.
    """

    def __init__(self, code: str, cause: str, *, retired: bool = False, passing: bool = False) -> None:
        super().__init__(code, cause)
        self.retired = retired
        self.passing = passing
        self.region = ""


class RunStopped(BgPipelineError):
    """The run may spend nothing more; what is not done becomes ``Skipped`` with this text as its cause."""


class LeaseLost(RunStopped):
    """Another run has taken this batch over; this one leaves it alone."""

    scope = "batch"


class StorageFailed(RunStopped):
    """S3 does not do what it is asked with the pipeline's own state; what cannot be stored must not be paid for."""

    code = "S3"


class NothingUsable(RunStopped):
    """No configured model can be used; the text lists each with its reason. Nothing was spent.

    With ``passing`` a model only waits for AWS to set up the account's access: a later run finds it usable. Without
    it, somebody has to do what the text says.
    """

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing
