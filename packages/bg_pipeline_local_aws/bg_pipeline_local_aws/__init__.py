"""An embedded stand-in for AWS: a separate program that speaks AWS's wire protocol on 127.0.0.1.

MiniStack keeps S3, SQS, SNS and a few more; a server of our own answers for Amazon Bedrock, Amazon Rekognition,
SageMaker endpoints and Service Quotas. It shares no code with the pipeline: the two meet on HTTP only.
"""
