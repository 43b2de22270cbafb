#!/usr/bin/env python3
"""An EC2 for tests: moto, with what it lacks in front of it and machines that are real SSH servers behind it.

    server.py FOLDER POLICY MACHINE    prints a JSON line with its address and a user's keys, serves until its input ends

moto checks every signature, and every action against POLICY (a file). In front of it are capacity, throttling, quotas,
placement scores and client tokens, which moto does not have, and the tags by which its own reading of a policy's conditions
is applied to what shall be deleted.
MACHINE is the program that sets an instance up from its user data. `POST /_fake` changes how it behaves (see `how`),
`GET /_fake` tells what it has and what it was asked; neither is Amazon's.
"""
import base64, hashlib, json, os, re, socket, subprocess, sys, tempfile, threading, time
from urllib.parse import parse_qsl
from xml.etree import ElementTree

FOLDER, POLICY, MACHINE = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3]
IMAGE = {"owner_id": "099720109477", "state": "available", "public": True, "image_location": "amazon/x", "sriov": "simple",
         "root_device_type": "ebs", "root_device_name": "/dev/sda1", "description": "Ubuntu", "image_type": "machine",
         "platform": None, "architecture": "x86_64", "virtualization_type": "hvm", "hypervisor": "xen"}
NOBLE = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-"
AMIS = [dict(IMAGE, ami_id="ami-0000000000000aaaa", name=NOBLE + "20250101", creation_date="2025-01-01T00:00:00.000Z"),
        dict(IMAGE, ami_id="ami-0000000000000bbbb", name=NOBLE + "20260101", creation_date="2026-01-01T00:00:00.000Z"),
        dict(IMAGE, ami_id="ami-0000000000000cccc", name="other", creation_date="2026-02-01T00:00:00.000Z"),
        dict(IMAGE, ami_id="ami-0000000000000dddd", name="amzn-ec2-macos-14.8-20260101-arm64", owner_id="137112412989",
             owner_alias="amazon", architecture="arm64_mac", creation_date="2026-01-01T00:00:00.000Z"),
        dict(IMAGE, ami_id="ami-0000000000000eeee", name="Windows_Server-2022-English-Full-Base-2026.01.01", owner_id="801119661308",
             owner_alias="amazon", creation_date="2026-01-01T00:00:00.000Z")]
ElementTree.register_namespace("", "http://ec2.amazonaws.com/doc/2016-11-15/")
os.makedirs(FOLDER, exist_ok=True)
with open(os.path.join(FOLDER, "amis.json"), "w") as file:
    json.dump(AMIS, file)
os.environ.update(MOTO_AMIS_PATH=file.name, INITIAL_NO_AUTH_ACTION_COUNT="0", MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION="1",
                  MOTO_ENABLE_KEYPAIR_VALIDATION="1", MOTO_ENABLE_AMI_VALIDATION="1")

import moto.ec2.models.elastic_network_interfaces as interfaces
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.ec2 import ec2_backends
from moto.iam import iam_backends
from moto.iam.access_control import IAMPolicy, IAMRequest, IAMRequestBase, PermissionResult
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

how = {
    "scores": {},        # placement scores by region
    "quotas": {},        # vCPUs by the code of their quota; none: nobody may ask
    "broken": False,     # machines are set up in vain
    "impostor": False,   # somebody else answers at the addresses of machines
    # Refusals that are given instead: on = an action, with = a part of the form; `lose`: no answer ever comes, though it is
    # done; `delay`: seconds before anything is done.
    "faults": [],        # {"on": "RunInstances", "with": "", "times": 1, "status": 400, "code": "X", "message": "x"}
}
asked, forms, tokens, machines, lock = [], [], {}, {}, threading.Lock()
addresses = ("127.%d.%d.%d" % (64 + (os.getpid() >> 8) % 128, os.getpid() % 256, n) for n in range(2, 255))
interfaces.random_public_ip = lambda: next(addresses)

judge = IAMRequestBase.__init__


def of_the_bytes(self, *args, **more):
    """moto encodes a form anew before it looks at its signature; here the signature must be that of the bytes that came."""
    judge(self, *args, **more)
    self._body = current.body


IAMRequestBase.__init__ = of_the_bytes


def user(name, policy):
    iam = iam_backends[ACCOUNT]["aws"]
    iam.create_user("us-east-1", name)
    iam.put_user_policy(name, "policy", json.dumps(policy))
    return iam.create_access_key(name)


with open(POLICY) as file:
    policy = json.load(file)
everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
key, admin = user("crabbox", policy), user("admin", everything)
# A role that may be taken on, and then do what the user may.
iam_backends[ACCOUNT]["aws"].create_role("runner", json.dumps(everything), "/", None, "", [], "3600")
iam_backends[ACCOUNT]["aws"].put_role_policy("runner", "policy", json.dumps(policy))


def refusal(code, message):
    return ("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors>"
            "<RequestID>r-1</RequestID></Response>" % (code, message)).encode()


def answer(name, inner):
    return ('<%sResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r-1</requestId>%s</%sResponse>' % (name, inner, name)).encode()


class Request:
    """A request to one of the services."""
    def __init__(self, environ):
        self.environ = environ
        self.body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        self.form = dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))
        scope = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        self.region, self.service = (scope[2], scope[3]) if scope else ("", "")
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        self.action = target.split(".")[-1] or self.form.get("Action", "")

    def allowed(self):
        """What moto does for the actions it knows."""
        self.of_moto().check_signature()
        self.of_moto().check_action_permitted("*")

    def of_moto(self):
        headers = {name[5:].replace("_", "-").title(): value for name, value in self.environ.items() if name.startswith("HTTP_")}
        headers["Content-Type"] = self.environ.get("CONTENT_TYPE", "")
        return IAMRequest(ACCOUNT, "POST", "/", self.form, self.body, headers, self.action)

    def out_of_reach(self):
        """What shall be deleted and may not be, for its tags. moto compares them, and never looks for them; what is not there
        has none."""
        ec2 = ec2_backends[ACCOUNT][self.region or "us-east-1"]
        if self.action == "TerminateInstances":
            named = [value for name, value in self.form.items() if name.startswith("InstanceId")]
            there = {one.id: one for one in ec2.all_instances()}
        elif self.action == "DeleteKeyPair":
            named, there = [self.form.get("KeyName")], ec2.key_pairs
        else:
            return []
        try:
            policies = [IAMPolicy(one) for one in self.of_moto()._access_key.collect_policies()]
        except Exception:
            return []  # Who has no key is refused by moto itself.
        def may(tags):
            told = [one.is_action_permitted("ec2:" + self.action, "*", None, {"ec2:ResourceTag/crabbox": tags.get("crabbox", "")}) for one in policies]
            return PermissionResult.PERMITTED in told and PermissionResult.DENIED not in told
        tags = lambda name: {tag["key"]: tag["value"] for tag in there[name].get_tags()} if name in there else {}
        return [name for name in named if not may(tags(name))]

    def moto(self):
        """Status, headers and body as moto answers."""
        got = {}
        def begin(status, headers, exc=None):
            got.update(status=status, headers=headers)
        import io
        environ = dict(self.environ, **{"wsgi.input": io.BytesIO(self.body)})
        body = b"".join(app(environ, begin))
        return got["status"], [(n, v) for n, v in got["headers"] if n.lower() != "content-length"], body


def fault(request):
    """What shall go wrong with it."""
    for rule in how["faults"]:
        if rule.get("times", 1) and request.action == rule["on"] and rule.get("with", "") in "&".join("%s=%s" % p for p in sorted(request.form.items())):
            if "times" in rule:
                rule["times"] -= 1
            return rule
    return {}


def quota(request):
    value = how["quotas"].get(json.loads(request.body)["QuotaCode"])
    if value is None:
        return "400 Bad Request", {"__type": "AccessDeniedException", "Message": "not authorized"}
    return "200 OK", {"Quota": {"Value": value}}


def scores(request):
    rows = "".join("<item><region>%s</region><score>%d</score></item>" % row for row in how["scores"].items())
    return answer("GetSpotPlacementScores", "<spotPlacementScoreSet>%s</spotPlacementScoreSet>" % rows)


def run(request):
    """RunInstances with tokens, and with machines that really start."""
    form = dict(request.form)
    forms.append(dict(form, UserData=base64.b64decode(form.get("UserData", "")).decode()))
    token = (request.region, form.pop("ClientToken", ""))
    data = base64.b64decode(form.get("UserData", ""))
    if len(data) > 16384:
        return "400 Bad Request", [], refusal("InvalidParameterValue", "User data is limited to 16384 bytes")
    print_of = hashlib.sha256(json.dumps(sorted(form.items())).encode()).hexdigest()
    if token[1] and token in tokens:
        known, reply = tokens[token]
        if known != print_of:
            return "400 Bad Request", [], refusal("IdempotentParameterMismatch", "the parameters are other ones")
        return reply
    reply = request.moto()
    if reply[0].startswith("200") and token[1]:
        tokens[token] = print_of, reply
    for id in re.findall(rb"<instanceId>(i-[0-9a-f]+)</instanceId>", reply[2]) if reply[0].startswith("200") else []:
        start(id.decode(), request.region, data)
    return reply


kinds = {}


def page_of_kinds(request):
    """moto gives all instance types at once, and takes seconds for it: it is asked for the first page alone."""
    size, first = int(request.form.get("MaxResults", 100)), int(request.form.get("NextToken", 0))
    status, headers, body = kinds[request.region] if first else request.moto()
    if not status.startswith("200"):
        return status, headers, body
    kinds[request.region] = status, headers, body
    xml = ElementTree.fromstring(body)
    rows = next(one for one in xml if one.tag.endswith("instanceTypeSet"))
    more = len(rows) > first + size
    for row in list(rows)[:first] + list(rows)[first + size:]:
        rows.remove(row)
    if more:
        ElementTree.SubElement(xml, rows.tag.replace("instanceTypeSet", "nextToken")).text = str(first + size)
    return status, headers, ElementTree.tostring(xml)


def start(id, region, data):
    folder = os.path.join(FOLDER, id)
    os.makedirs(folder)
    with open(os.path.join(folder, "user-data"), "wb") as file:
        file.write(data)
    instance = ec2_backends[ACCOUNT][region].get_instance(id)
    instance.user_data_text = data
    words = [MACHINE, folder, instance.public_ip] + [word for word in ("broken", "impostor") if how[word]]
    machines[id] = subprocess.Popen(words, stdin=subprocess.PIPE)


def foreign(tags):
    """An instance and a key that others made."""
    import boto3
    ec2 = boto3.client("ec2", region_name="eu-west-1", endpoint_url="http://127.0.0.1:%d" % server.port,
                       aws_access_key_id=admin.access_key_id, aws_secret_access_key=admin.secret_access_key)
    tagged = lambda kind: [{"ResourceType": kind, "Tags": [{"Key": name, "Value": value} for name, value in tags.items()]}]
    ec2.import_key_pair(KeyName=tags["Name"], TagSpecifications=tagged("key-pair"),
                        PublicKeyMaterial=b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIDAeYK4kYaTT4Wz5xjWAFBUBZbbmCCS1TwF5ioYwYtU theirs")
    ec2.run_instances(ImageId=AMIS[1]["ami_id"], InstanceType="t3.small", MinCount=1, MaxCount=1, TagSpecifications=tagged("instance"))


def end(ids):
    """As cutting the power would."""
    gone = [machines.pop(id) for id in ids if id in machines]
    for machine in gone:
        machine.stdin.close()
    for machine in gone:
        machine.wait(20)


def state():
    out = {"asked": asked, "forms": forms, "instances": [], "keys": [], "groups": []}
    for region in sorted(ec2_backends[ACCOUNT]):
        ec2 = ec2_backends[ACCOUNT][region]
        tags = lambda one: {tag["key"]: tag["value"] for tag in one.get_tags()}
        for one in ec2.all_instances():
            disks = [tags(ec2.volumes[d.volume_id]) for d in one.block_device_mapping.values() if d.volume_id in ec2.volumes]
            out["instances"].append({"id": one.id, "region": region, "state": one.state, "type": one.instance_type, "tags": tags(one),
                                     "lifecycle": one.lifecycle, "address": one.public_ip, "zone": one.placement.zone, "disks": disks,
                                     "image": one.image_id, "ends": one.instance_initiated_shutdown_behavior})
        for one in ec2.key_pairs.values():
            out["keys"].append({"name": one.key_name, "region": region, "tags": tags(one)})
        for groups in ec2.groups.values():
            for one in groups.values():
                if one.name != "default":
                    rules = ["%s-%s %s" % (r.from_port, r.to_port, r.ip_range.get("CidrIp") or r.ip_range.get("CidrIpv6")) for r in one.ingress_rules]
                    out["groups"].append({"id": one.id, "name": one.name, "region": region, "tags": tags(one), "rules": rules})
    return out


def serve(environ, begin):
    if environ["PATH_INFO"].startswith("/address"):
        begin("200 OK", [("content-type", "text/plain"), ("content-length", "13")])
        return [b"198.51.100.7\n"]
    if environ["PATH_INFO"] == "/_fake":
        text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        change = json.loads(text or b"{}")
        for tags in change.pop("foreign", []):
            foreign(tags)
        with lock:
            how.update(change)
            body = json.dumps(state()).encode()
        begin("200 OK", [("content-type", "application/json"), ("content-length", str(len(body)))])
        return [body]
    request = Request(environ)
    with lock:
        asked.append(request.action)
        rule = fault(request)
    time.sleep(rule.get("delay", 0))
    headers, code = [("content-type", "text/xml")], rule.get("code")
    with lock:
        globals()["current"] = request
        if code:
            status, body = "%d X" % rule.get("status", 400), refusal(code, rule.get("message", ""))
        elif request.action in ("GetServiceQuota", "GetSpotPlacementScores"):
            try:
                request.allowed()
                status, body = quota(request) if request.action == "GetServiceQuota" else ("200 OK", scores(request))
            except Exception as error:
                code = getattr(error, "error_type", "Refused")
                status, body = "403 X", {"__type": code, "message": str(error)} if request.service != "ec2" else refusal(code, "not allowed")
            if isinstance(body, dict):
                headers, body = [("content-type", "application/x-amz-json-1.1")], json.dumps(body).encode()
        elif request.action == "RunInstances" and request.form.get("DryRun", "").lower() != "true":
            status, headers, body = run(request)
        elif request.action == "DescribeInstanceTypes":
            status, headers, body = page_of_kinds(request)
        elif request.out_of_reach():
            status, body = "403 X", refusal("UnauthorizedOperation", "You are not authorized to perform this operation.")
        else:
            status, headers, body = request.moto()
            if request.action == "TerminateInstances" and status.startswith("200"):
                end([value for name, value in request.form.items() if name.startswith("InstanceId")])
    if rule.get("lose"):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        body = b""
    begin(status, headers + [("content-length", str(len(body)))])
    return [body]


class Quiet(MotoRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass


app = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps({"url": "http://127.0.0.1:%d" % server.port, "keys": [key.access_key_id, key.secret_access_key],
                  "admin": [admin.access_key_id, admin.secret_access_key]}), flush=True)
sys.stdin.read()
end(list(machines))
os._exit(0)
