"""boto3 as a second client of the EC2 of these tests: what the plugin is tested against is no fancy of ours.

    second_client.py URL ID KEY    prints a JSON line of what it saw
"""
import json, sys

import boto3
from botocore.exceptions import ClientError

url, id, key = sys.argv[1:]
ec2 = boto3.client("ec2", region_name="eu-west-1", endpoint_url=url, aws_access_key_id=id, aws_secret_access_key=key)
ours = ec2.describe_instances(Filters=[{"Name": "tag:crabbox", "Values": ["true"]}, {"Name": "instance-state-name", "Values": ["running"]}])
slugs = [tag["Value"] for reservation in ours["Reservations"] for one in reservation["Instances"] for tag in one["Tags"] if tag["Key"] == "slug"]


def make(kind):
    made = ec2.run_instances(ImageId="ami-0000000000000bbbb", InstanceType=kind, MinCount=1, MaxCount=1, ClientToken="second-client")
    return made["Instances"][0]["InstanceId"]


first, again, other = make("t3.small"), make("t3.small"), None
try:
    make("t3.large")
except ClientError as refused:
    other = refused.response["Error"]["Code"]
ec2.terminate_instances(InstanceIds=[first])
print(json.dumps({"slugs": slugs, "same": first == again, "other": other}))
