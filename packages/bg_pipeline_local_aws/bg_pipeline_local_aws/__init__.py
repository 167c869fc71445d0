"""An embedded stand-in for AWS: a separate program that speaks AWS's wire protocols on 127.0.0.1.

MiniStack provides S3, SQS, SNS and a few more; a server in this package provides Amazon Bedrock, Amazon Rekognition,
SageMaker endpoints and Service Quotas. It shares no code with the pipeline; they communicate only over HTTP.
"""
