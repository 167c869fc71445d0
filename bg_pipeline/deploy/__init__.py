"""The pipeline on AWS: the CloudFormation template, its price, and the stack that is made from it."""
