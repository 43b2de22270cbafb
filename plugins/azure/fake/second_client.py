#!/usr/bin/env python3
"""Microsoft's own clients against the cloud of these tests: what they see of ours, a machine of their own, and whether
everything the cloud was asked and answers is in their models.

    second_client.py URL SUBSCRIPTION TENANT CLIENT SECRET
"""
import json, re, sys, urllib.parse, urllib.request
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.compute import ComputeManagementClient, models as machines
from azure.mgmt.network import NetworkManagementClient, models as networks

url, subscription, tenant, client, secret = sys.argv[1:]
GROUP = "crabbox-leases"
form = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret, "scope": url + "/.default"}
with urllib.request.urlopen("%s/%s/oauth2/v2.0/token" % (url, tenant), urllib.parse.urlencode(form).encode()) as answer:
    token = json.load(answer)["access_token"]


class Credential:
    def get_token(self, *_, **__):
        return AccessToken(token, 4000000000)


class Bearer(SansIOHTTPPolicy):
    """The client's own policy sends tokens over TLS only."""
    def on_request(self, request):
        request.http_request.headers["Authorization"] = "Bearer " + token


more = {"authentication_policy": Bearer(), "polling_interval": 0}
def strange(models, model, value, path):
    """Members that Microsoft's own model does not have, and words that its lists of words do not have."""
    fields, hints = model()._attr_to_rest_field, {}
    for base in reversed(model.__mro__):
        hints.update(getattr(base, "__annotations__", {}))
    kinds = {field._rest_name: re.findall(r"_models\.(\w+)", str(hints.get(name, ""))) for name, field in fields.items()}
    for name, inner in value.items():
        at = "%s/%s" % (path, name)
        if name not in kinds:
            yield at
        # The list of sizes is an old one.
        for kind in [getattr(models, kind) for kind in kinds.get(name, []) if kind != "VirtualMachineSizeTypes"]:
            for one in inner if isinstance(inner, list) else [inner]:
                if isinstance(one, dict):
                    yield from strange(models, kind, one, at)
                elif hasattr(kind, "__members__") and one not in [word.value for word in kind]:
                    yield "%s=%s" % (at, one)


KINDS = {"virtualMachines": (machines, machines.VirtualMachine), "disks": (machines, machines.Disk),
         "networkInterfaces": (networks, networks.NetworkInterface), "publicIPAddresses": (networks, networks.PublicIPAddress),
         "networkSecurityGroups": (networks, networks.NetworkSecurityGroup), "virtualNetworks": (networks, networks.VirtualNetwork)}
with urllib.request.urlopen(url + "/_fake", b"{}") as answer:
    things = [thing for thing in json.load(answer)["things"] if thing["kind"] in KINDS]
odd = []
for thing in things:
    answered = {name: value for name, value in thing.items() if name not in ("kind", "asked", "word", "data", "hidden")}
    for body in (answered, json.loads(thing.get("asked", "{}"))):
        odd.extend(strange(*KINDS[thing["kind"]], body, thing["kind"]))

compute = ComputeManagementClient(Credential(), subscription, base_url=url, api_version="2024-07-01", **more)
network = NetworkManagementClient(Credential(), subscription, base_url=url, api_version="2024-05-01", **more)
ours = [one.tags["slug"] for one in compute.virtual_machines.list(GROUP) if (one.tags or {}).get("crabbox") == "true"]
view = compute.virtual_machines.get(GROUP, next(compute.virtual_machines.list(GROUP)).name, expand="instanceView")
power = [status.code for status in view.instance_view.statuses]

public = network.public_ip_addresses.begin_create_or_update(GROUP, "sdk-pip", {
    "location": "eastus", "tags": {"team": "sdk"}, "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"},
}).result()
subnet = next(network.virtual_networks.list(GROUP)).subnets[0]
guard = next(network.network_security_groups.list(GROUP))
nic = network.network_interfaces.begin_create_or_update(GROUP, "sdk-nic", {"location": "eastus", "properties": {
    "networkSecurityGroup": {"id": guard.id}, "ipConfigurations": [{"name": "box", "properties": {
        "subnet": {"id": subnet.id or "%s/subnets/%s" % (next(network.virtual_networks.list(GROUP)).id, subnet.name)}, "publicIPAddress": {"id": public.id}}}]}}).result()
disk = {"name": "sdk-osdisk", "createOption": "FromImage", "deleteOption": "Delete", "managedDisk": {"storageAccountType": "StandardSSD_LRS"}}
image = {"publisher": "Canonical", "offer": "0001-com-ubuntu-server-jammy", "sku": "22_04-lts-gen2", "version": "latest"}
keys = [{"path": "/home/sdk/.ssh/authorized_keys", "keyData": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIDAeYK4kYaTT4Wz5xjWAFBUBZbbmCCS1TwF5ioYwYtU sdk"}]
made = compute.virtual_machines.begin_create_or_update(GROUP, "sdk-1", {"location": "eastus", "tags": {"team": "sdk"}, "properties": {
    "hardwareProfile": {"vmSize": "Standard_B2s"}, "storageProfile": {"imageReference": image, "osDisk": disk},
    "osProfile": {"computerName": "sdk-1", "adminUsername": "sdk", "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": keys}}},
    "networkProfile": {"networkInterfaces": [{"id": nic.id}]}}}).result()
try:
    network.network_interfaces.begin_delete(GROUP, "sdk-nic").result()
    held = None
except HttpResponseError as refused:
    held = refused.error.code
compute.virtual_machines.begin_delete(GROUP, "sdk-1").result()
network.network_interfaces.begin_delete(GROUP, "sdk-nic").result()
network.public_ip_addresses.begin_delete(GROUP, "sdk-pip").result()
try:
    compute.virtual_machines.get(GROUP, "sdk-1")
    error = None
except HttpResponseError as refused:
    error = refused.error.code
print(json.dumps({"ours": ours, "power": power, "state": made.provisioning_state, "address": public.ip_address, "held": held, "error": error,
                  "judged": sorted({thing["kind"] for thing in things}), "strange": odd}))
