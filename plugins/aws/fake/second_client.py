"""boto3 as a second client of the EC2 of these tests: what the plugin is tested against is no fancy of ours.

    second_client.py URL ID KEY ID KEY    prints a JSON line of what it saw; the second pair is crabbox's own
"""
import json, sys

import boto3
from botocore.exceptions import ClientError

url, *keys = sys.argv[1:]
client = lambda id, key: boto3.client("ec2", region_name="eu-west-1", endpoint_url=url, aws_access_key_id=id, aws_secret_access_key=key)
ec2, crabbox = client(*keys[:2]), client(*keys[2:])
ours = ec2.describe_instances(Filters=[{"Name": "tag:crabbox", "Values": ["true"]}, {"Name": "instance-state-name", "Values": ["running"]}])
slugs = [tag["Value"] for reservation in ours["Reservations"] for one in reservation["Instances"] for tag in one["Tags"] if tag["Key"] == "slug"]


def make(kind):
    made = ec2.run_instances(ImageId="ami-0000000000000bbbb", InstanceType=kind, MinCount=1, MaxCount=1, ClientToken="second-client")
    return made["Instances"][0]["InstanceId"]


def refusal(act):
    try:
        act()
    except ClientError as refused:
        return refused.response["Error"]["Code"]


first, again, other = make("t3.small"), make("t3.small"), refusal(lambda: make("t3.large"))
ec2.create_key_pair(KeyName="theirs")
# With the policy of the page: what carries no tag of crabbox is out of reach, alone and beside what is.
mine = [one["InstanceId"] for reservation in ours["Reservations"] for one in reservation["Instances"]]
reach = [refusal(lambda: crabbox.terminate_instances(InstanceIds=[first])), refusal(lambda: crabbox.terminate_instances(InstanceIds=mine + [first])),
         refusal(lambda: crabbox.delete_key_pair(KeyName="theirs"))]
there = len(ec2.describe_instances(InstanceIds=mine + [first])["Reservations"]), len(ec2.describe_key_pairs(KeyNames=["theirs"])["KeyPairs"])
ec2.delete_key_pair(KeyName="theirs")
ec2.terminate_instances(InstanceIds=[first])
print(json.dumps({"slugs": slugs, "same": first == again, "other": other, "reach": reach, "there": there}))
