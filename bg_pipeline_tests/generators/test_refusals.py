import pytest

from bg_pipeline import errors
from bg_pipeline.generators.refusals import refusal


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "ValidationException",
            "This request has been blocked by our content filters. Please adjust your text prompt to submit a new "
            "request.",
        ),
        (
            "ValidationException",
            "This request has been blocked by our content filters. Please adjust your input image to submit a new "
            "request.",
        ),
        (
            "ValidationException",
            "This request has been blocked by our content filters. Our filters automatically flagged this prompt "
            "because it may conflict our AUP or AWS Responsible AI Policy. Please adjust your text prompt.",
        ),
        ("AccessDeniedException", "This request has been blocked by our content filters."),
        ("", "All of the generated images have been blocked by our content filters."),
    ],
)
def test_a_content_filter_message_is_blocked_under_any_code(code, message):
    error = refusal(code, message)
    assert type(error) is errors.Blocked
    assert (error.code, str(error)) == (code, message)


@pytest.mark.parametrize(
    "message",
    [
        "400 Bad Request: Unable to auto-generate mask image with given input image and mask prompt.",
        "No subject was found in the input image.",
    ],
)
def test_a_mask_prompt_without_match_is_subject_not_found(message):
    assert type(refusal("ValidationException", message)) is errors.SubjectNotFound


@pytest.mark.parametrize(
    "message",
    [
        "This model version has reached the end of its life. Please refer to the AWS documentation for more details.",
        "Access denied. This Model is marked by provider as Legacy and you have not been actively using the model "
        "in the last 30 days. Please upgrade to an active model on Amazon Bedrock",
    ],
)
def test_a_retired_model_is_recognised(message):
    error = refusal("ResourceNotFoundException", message)
    assert isinstance(error, errors.ModelUnavailable)
    assert error.retired


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDeniedException", "You don't have access to the model with the specified model ID."),
        (
            "AccessDeniedException",
            "User: arn:… is not authorized to perform: bedrock:InvokeModel on resource: …",
        ),
        (
            "AccessDeniedException",
            "Model access is denied due to INVALID_PAYMENT_INSTRUMENT: A valid payment instrument must be provided. "
            "Your AWS Marketplace subscription for this model cannot be completed at this time.",
        ),
        ("ResourceNotFoundException", "Model use case details have not been submitted for this account."),
        (
            "ValidationException",
            "Invocation of model ID stability.stable-image-inpaint-v1:0 with on-demand throughput isn’t supported. "
            "Retry your request with the ID or ARN of an inference profile that contains this model.",
        ),
        ("ValidationException", "The provided model identifier is invalid."),
        ("ValidationException", "Operation not allowed"),
    ],
)
def test_a_model_that_the_account_may_not_use_yet_is_unavailable_and_not_retired(code, message):
    error = refusal(code, message)
    assert isinstance(error, errors.ModelUnavailable)
    assert not error.retired


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "ValidationException",
            "Malformed input request: #/outPaintingParams/text: expected maxLength: 512, actual: 536, please "
            "reformat your input and try again.",
        ),
        ("ValidationException", "Prompt must contain exactly one of maskPrompt and maskImage."),
        ("ThrottlingException", "Too many requests, please wait before trying again."),
        ("InternalServerException", ""),
        ("ModelErrorException", "The system encountered an unexpected error during processing."),
    ],
)
def test_faults_and_bad_fields_are_left_to_their_codes(code, message):
    assert refusal(code, message) is None


MARKETPLACE = (
    "Model access is denied due to IAM user or service role is not authorized to perform the required AWS "
    "Marketplace actions (aws-marketplace:ViewSubscriptions, aws-marketplace:Subscribe) to enable access to this "
    "model. Refer to the Amazon Bedrock documentation for further details. Your AWS Marketplace subscription for "
    "this model cannot be completed at this time. If you recently fixed this issue, try again after {} minutes."
)


@pytest.mark.parametrize(
    "message",
    [
        MARKETPLACE.format(2),
        MARKETPLACE.format(5),
        MARKETPLACE.format(15),
        "Your AWS Marketplace subscription is being processed.",
        "The agreement was just accepted; access is pending. Try again in a few minutes.",
    ],
)
def test_a_pending_subscription_is_temporary(message):
    error = refusal("AccessDeniedException", message)
    assert isinstance(error, errors.ModelUnavailable)
    assert error.passing


@pytest.mark.parametrize(
    ("code", "message", "what_to_do"),
    [
        (
            "AccessDeniedException",
            "Model access is denied due to INVALID_PAYMENT_INSTRUMENT:A valid payment instrument must be provided.. "
            "Your AWS Marketplace subscription for this model cannot be completed at this time. If you recently "
            "fixed this issue, try again after 2 minutes.",
            "Billing and Cost Management",
        ),
        (
            "AccessDeniedException",
            "User: arn:aws:sts::1:assumed-role/x is not authorized to perform: bedrock:InvokeModel on resource: "
            "arn:aws:bedrock:us-east-2::foundation-model/stability.stable-image-inpaint-v1:0 with an explicit deny "
            "in a service control policy",
            "denies bedrock:InvokeModel in us-east-2",
        ),
        (
            "AccessDeniedException",
            "User: arn:aws:sts::1:assumed-role/x is not authorized to perform: bedrock:InvokeModel on resource: "
            "arn:aws:bedrock:us-west-2::foundation-model/amazon.nova-pro-v1:0 because no identity-based policy "
            "allows the bedrock:InvokeModel action",
            "grant bedrock:InvokeModel on arn:aws:bedrock:us-west-2::foundation-model/amazon.nova-pro-v1:0",
        ),
        (
            "AccessDeniedException",
            "User: x is not authorized to perform: aws-marketplace:Subscribe on resource: *",
            "grant aws-marketplace:Subscribe",
        ),
        ("ValidationException", "Operation not allowed", "AWS Support"),
        (
            "ResourceNotFoundException",
            "Model use case details have not been submitted for this account. Fill out the use case details form. If "
            "you have already filled out the form, try again in 15 minutes.",
            "use case form",
        ),
    ],
)
def test_lasting_refusals_name_the_permission_or_console_page(code, message, what_to_do):
    error = refusal(code, message)
    assert isinstance(error, errors.ModelUnavailable)
    assert not error.passing
    assert str(error).startswith(message)
    assert what_to_do in str(error).removeprefix(message)
