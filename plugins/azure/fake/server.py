#!/usr/bin/env python3
"""An Azure for tests: the part of the resource manager that is in use, with machines that are real SSH servers.

    server.py FOLDER ROLE MACHINE SECRET    prints a JSON line with its address, serves until its input ends

It judges tokens, versions of interfaces, members of bodies, references between things and what the role allows (ROLE is a
file with a custom role), and answers as slowly as Azure does: with operations that have to be looked at again. MACHINE is
the program that sets a machine up from its user data, SECRET what the client must say to get a token.
`POST /_fake` changes how it behaves (see `how`) and tells what it has and what it was asked.
"""
import base64, itertools, json, os, re, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

sys.dont_write_bytecode = True
from facts import IMAGES, LOCATIONS, PROPERTIES, SIZES, VERSIONS, prices

FOLDER, MACHINE, SECRET = os.path.abspath(sys.argv[1]), sys.argv[3], sys.argv[4]
SUB, TENANT, CLIENT = ("%08d-0000-4000-8000-000000000000" % n for n in (1, 2, 3))
with open(sys.argv[2]) as file:
    ROLE = json.load(file)
KEPT = ("microsoft", "azure", "windows")
LOGINS = {"root", "admin", "administrator", "user", "test", "guest", "owner", "sys", "backup", "console", "crabbox-no"}
addresses = ("127.%d.%d.%d" % (64 + (os.getpid() >> 8) % 128, os.getpid() % 256, n) for n in range(2, 255))

how = {
    "seconds": 0.05,     # how long an operation takes
    "page": 100,         # things of a page
    "broken": False,     # machines are set up in vain
    "impostor": False,   # somebody else answers at the addresses of machines
    "blocked": {},       # sizes this subscription may not have, and why
    "accept": None,      # a token that does too
    # Refusals that are given instead: on = a method and a kind, with = a part of the body; `later`: only the operation
    # fails; `lose`: no answer ever comes, though it is done; `delay`: seconds before anything is done.
    "faults": [],        # {"on": "PUT virtualMachines", "with": "", "times": 1, "status": 409, "code": "X", "message": "x"}
}
things, operations, machines, tokens, asked = {}, {}, {}, {}, []
lock, numbers = threading.RLock(), itertools.count(1)


class Refusal(Exception):
    def __init__(self, status, code, message, headers=()):
        self.status, self.code, self.headers = status, code, dict(headers)
        self.body = {"error": {"code": code, "message": message}}


def invalid(message, code="InvalidParameter"):
    raise Refusal(400, code, message)


def known(id, what):
    found = things.get(str(id).lower())
    if not found:
        raise Refusal(400, "InvalidResourceReference", "Resource %s referenced by resource %s was not found." % (id, what))
    return found


def later(action, error=None, location="eastus", provider="Microsoft.Compute"):
    """Begins an operation."""
    id = "%08d-op" % next(numbers)
    operations[id] = {"due": time.monotonic() + how["seconds"], "action": action, "error": error, "status": "InProgress"}
    link = "%s/subscriptions/%s/providers/%s/locations/%s/operations/%s?api-version=2024-07-01" % (URL, SUB, provider, location, id)
    return {"azure-asyncoperation": link, "location": link.replace("/operations/", "/operationResults/"), "retry-after": "0"}


def pass_time():
    """Ends the operations whose time has come."""
    for one in list(operations.values()):
        if one["status"] == "InProgress" and one["due"] <= time.monotonic():
            one["status"] = "Failed" if one["error"] else "Succeeded"
            one["action"](one["error"])


def made(key, also=lambda: None):
    def end(error):
        thing = things.get(key)
        if thing and thing["properties"].get("provisioningState") != "Deleting":
            thing["properties"]["provisioningState"] = "Failed" if error else "Succeeded"
            if not error:
                also()
    return end


def users(id):
    """What still needs something."""
    id = id.lower()
    for other in things.values():
        text = json.dumps(other["properties"]).lower()
        if other["id"].lower() != id and '"%s"' % id in text:
            yield other


def delete(thing):
    key, kind = thing["id"].lower(), thing["kind"]
    if kind == "networkInterfaces":
        for user in users(key):
            raise Refusal(400, "NicInUse", "Network Interface %s is used by existing resource %s." % (thing["id"], user["id"]))
    if kind == "publicIPAddresses":
        for user in users(key):
            raise Refusal(400, "PublicIPAddressCannotBeDeleted", "Public IP address %s can not be deleted since it is still allocated to resource %s." % (thing["id"], user["id"]))
    if kind == "disks" and thing.get("managedBy", "").lower() in things:
        raise Refusal(409, "OperationNotAllowed", "Disk %s is attached to VM %s." % (thing["name"], thing["managedBy"]))
    thing["properties"]["provisioningState"] = "Deleting"
    def gone(_):
        things.pop(key, None)
        if kind == "virtualMachines":
            end(key)
            for inner in [one for one in things if one.startswith(key + "/")]: things.pop(inner)
            body = thing["properties"]
            for one in body["networkProfile"]["networkInterfaces"]:
                if one.get("properties", {}).get("deleteOption") == "Delete":
                    follow(one["id"])
            if body["storageProfile"]["osDisk"].get("deleteOption") == "Delete":
                follow(disk_of(thing))
        elif kind == "networkInterfaces":
            for one in thing["properties"].get("ipConfigurations", []):
                public = one["properties"].get("publicIPAddress", {})
                if public.get("properties", {}).get("deleteOption") == "Delete":
                    follow(public["id"])
    return later(gone)


def follow(id):
    """What goes with something that was deleted, some time after it."""
    one = things.get(id.lower())
    if one and one["properties"].get("provisioningState") != "Deleting":
        later(lambda _: delete(one) if one["id"].lower() in things else None)


def disk_of(machine):
    return machine["id"].split("/virtualMachines/")[0] + "/disks/" + machine["properties"]["storageProfile"]["osDisk"]["name"]


def check_tags(tags):
    if len(tags) > 50:
        invalid("too many tags", "TooManyTags")
    for name, value in tags.items():
        if name.lower().startswith(KEPT) or len(name) > 512 or re.search(r"[<>%&\\?/]", name) or not isinstance(value, str) or len(value) > 256:
            invalid("the tag %s is not valid" % name, "InvalidTagName")


def check_machine(id, body, location):
    p = body["properties"]
    wanted = p.get("hardwareProfile", {}).get("vmSize", "")
    row = next((row for row in SIZES if row["name"].lower() == wanted.lower()), None)
    if not row:
        invalid("The value %s provided for the VM size is not valid." % wanted)
    if wanted in how["blocked"]:
        raise Refusal(409, "SkuNotAvailable", "The requested size for resource '%s' is currently not available in location '%s'." % (id, location))
    login = p.get("osProfile", {})
    if login.get("adminUsername", "root").lower() in LOGINS or not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", login["adminUsername"]):
        invalid("The Admin Username specified is not allowed.")
    check_login(login, "windows" in json.dumps(p.get("storageProfile", {}).get("imageReference", {})).lower())
    if len(login.get("customData", "")) > 87380:
        invalid("Custom data in OSProfile must be in Base64 encoding and with a maximum length of 87380 characters.")
    storage = p.get("storageProfile", {})
    image = storage.get("imageReference", {})
    if "id" not in image and ":".join(image.get(part, "") for part in ("publisher", "offer", "sku")).lower() not in IMAGES:
        raise Refusal(404, "PlatformImageNotFound", "The platform image is not available.")
    disk = storage.get("osDisk", {})
    if disk.get("createOption") != "FromImage" or not disk.get("name"):
        invalid("osDisk is not valid")
    local = disk.get("diffDiskSettings")
    if local:
        places = row["said"].get("SupportedEphemeralOSDiskPlacements", "").split(",")
        if local.get("option") != "Local" or disk.get("caching") != "ReadOnly" or "managedDisk" in disk or local.get("placement", places[0]) not in places or places == [""]:
            invalid("OS disk of Ephemeral VM with size %s is not supported so." % wanted, "NotSupported")
    if (row["said"]["DiskControllerTypes"] == "NVMe") != (storage.get("diskControllerType") == "NVMe"):
        invalid("The VM size '%s' cannot boot with this disk controller." % wanted)
    if p.get("priority") == "Spot" and (p.get("evictionPolicy") != "Delete" or row["said"]["LowPriorityCapable"] != "True"):
        invalid("The VM size %s cannot be Spot like that." % wanted)
    doors = p.get("networkProfile", {}).get("networkInterfaces", [])
    if len(doors) != 1:
        invalid("a machine needs a network interface")
    door = known(doors[0]["id"], id)
    allow("Microsoft.Network/networkInterfaces/join/action", door["id"])
    if door["properties"].get("enableAcceleratedNetworking") and row["said"]["AcceleratedNetworkingEnabled"] != "True":
        invalid("The VM size %s is not permitted to enable accelerated networking on it." % wanted, "VMSizeIsNotPermittedToEnableAcceleratedNetworking")
    if door["location"] != location:
        invalid("the interface is in another location", "InvalidResourceReference")
    for user in users(door["id"]):
        if user["id"].lower() != id.lower():
            raise Refusal(400, "NicInUse", "Network Interface is used by %s." % user["id"])


def check_login(login, windows):
    if not re.fullmatch(r"[A-Za-z0-9-]{1,%d}" % (15 if windows else 64), login.get("computerName", "")):
        invalid("The computer name is not valid.")
    if windows:
        word = str(login.get("adminPassword", ""))
        kinds = sum(bool(re.search(kind, word)) for kind in ("[a-z]", "[A-Z]", "[0-9]", "[^a-zA-Z0-9]"))
        if "linuxConfiguration" in login or not 12 <= len(word) <= 123 or kinds < 3:
            invalid("The supplied password must be between 12-123 characters long and must satisfy at least 3 of password complexity requirements.")
        settings = login.get("windowsConfiguration", {})
        if settings.get("patchSettings", {}).get("patchMode") == "Manual" and settings.get("enableAutomaticUpdates") is not False:
            invalid("Manual patches need enableAutomaticUpdates=false.")
        return
    linux = login.get("linuxConfiguration", {})
    keys = linux.get("ssh", {}).get("publicKeys", [])
    if not linux.get("disablePasswordAuthentication") or not keys or keys[0]["path"] != "/home/%s/.ssh/authorized_keys" % login["adminUsername"]:
        invalid("there is no SSH key")


def check_extension(id, body):
    owner, p = known(id.split("/extensions/")[0], id)["properties"], body["properties"]
    if owner.get("provisioningState") != "Succeeded":
        raise Refusal(409, "AnotherOperationInProgress", "The machine is not ready yet.")
    if "windowsConfiguration" not in owner["osProfile"] or (p.get("publisher"), p.get("type")) != ("Microsoft.Compute", "CustomScriptExtension"):
        invalid("The extension does not go with the machine.")
    if not re.fullmatch(r"1\.\d+", p.get("typeHandlerVersion", "")) or "commandToExecute" not in p.get("protectedSettings", {}):
        invalid("The extension is not complete.")


def check_door(id, body, location):
    p = body["properties"]
    if "networkSecurityGroup" in p:
        guard = known(p["networkSecurityGroup"]["id"], id)
        allow("Microsoft.Network/networkSecurityGroups/join/action", guard["id"])
    for one in p.get("ipConfigurations", []):
        subnet = one["properties"]["subnet"]["id"]
        network, _, name = subnet.rpartition("/subnets/")
        net = known(network, id)
        allow("Microsoft.Network/virtualNetworks/subnets/join/action", subnet)
        if name not in [part["name"] for part in net["properties"]["subnets"]]:
            invalid("there is no subnet " + name, "InvalidResourceReference")
        public = known(one["properties"]["publicIPAddress"]["id"], id)
        allow("Microsoft.Network/publicIPAddresses/join/action", public["id"])
        if {net["location"], public["location"], guard["location"]} != {location}:
            invalid("everything must be in one location", "InvalidResourceReference")
        one["id"] = id + "/ipConfigurations/" + one["name"]
        public["properties"]["ipConfiguration"] = {"id": one["id"]}
    if not p.get("ipConfigurations"):
        invalid("an interface needs an address")


def put(id, kind, name, body, error):
    """Makes a thing, or makes it so."""
    location = body.get("location", "")
    unknown = set(body) - {"location", "tags", "properties", "sku", "zones"}
    unknown |= set(body.get("properties", {})) - PROPERTIES[kind]
    if unknown:
        invalid("Could not find member '%s'" % sorted(unknown)[0], "InvalidRequestContent")
    if location not in LOCATIONS:
        raise Refusal(400, "LocationNotAvailableForResourceType", "The provided location '%s' is not available." % location)
    check_tags(body.get("tags", {}))
    key, old = id.lower(), things.get(id.lower())
    if old and old["location"] != location:
        raise Refusal(409, "InvalidResourceLocation", "The resource '%s' already exists in location '%s'." % (name, old["location"]))
    if old and old["properties"].get("provisioningState") in ("Deleting", "Updating", "Creating"):
        raise Refusal(409, "AnotherOperationInProgress", "Another operation on this or dependent resource is in progress.")
    if kind == "virtualMachines":
        check_machine(id, body, location)
        if old and old["asked"] != json.dumps(body, sort_keys=True):
            raise Refusal(409, "PropertyChangeNotAllowed", "Changing property 'customData' is not allowed.")
    if kind == "networkInterfaces":
        check_door(id, body, location)
    if kind == "extensions":
        check_extension(id, body)
    elif kind == "publicIPAddresses" and (body.get("sku", {}).get("name") != "Standard" or body["properties"].get("publicIPAllocationMethod") != "Static"):
        invalid("a Standard address must be Static", "StandardSkuPublicIPAddressesMustBeStatic")
    thing = {"id": id, "name": name, "kind": kind, "type": kind, "location": location, "tags": body.get("tags", {}), "asked": json.dumps(body, sort_keys=True),
             "properties": json.loads(json.dumps(body.get("properties", {})))}
    p = thing["properties"]
    if old and kind != "virtualMachines":
        p.update({n: v for n, v in old["properties"].items() if n in ("ipAddress", "ipConfiguration")})
    if kind == "virtualNetworks":
        p.setdefault("subnets", [])
    if kind == "networkSecurityGroups":
        p.setdefault("securityRules", [])
    if kind == "resourceGroups":
        things[key] = dict(thing, properties={"provisioningState": "Succeeded"})
        return 200 if old else 201, things[key], {}
    if old and kind == "virtualMachines":
        return 200, old, {}
    things[key] = thing
    p["provisioningState"] = "Creating" if kind == "virtualMachines" else "Updating"
    also = lambda: None
    if kind == "virtualMachines":
        data = p["osProfile"].pop("customData", "")
        # Nobody is ever told again what it was.
        thing["word"] = p["osProfile"].pop("adminPassword", "")
        p["vmId"] = "%08d-vm" % next(numbers)
        disk = {"id": disk_of(thing), "name": p["storageProfile"]["osDisk"]["name"], "kind": "disks", "location": location, "tags": dict(thing["tags"]),
                "managedBy": id, "properties": {"provisioningState": "Succeeded", "diskState": "Attached"}}
        things[disk["id"].lower()] = disk
        # Windows reads nothing of it by itself, and nothing here could run it.
        thing["data"] = base64.b64decode(data).decode()
        if "windowsConfiguration" not in p["osProfile"]:
            also = lambda: boot(thing, base64.b64decode(data))
    if kind == "extensions":
        thing["hidden"] = p.pop("protectedSettings")
    if kind == "publicIPAddresses" and "ipAddress" not in p:
        def also():
            p["ipAddress"] = next(addresses)
    return 200 if old else 201, shown(thing), later(made(key, also), error, location)


def inner(parent, list, name, body):
    """A rule of a group, a subnet of a network."""
    owner = known(parent, name)
    all = owner["properties"][list]
    unknown = set(body.get("properties", {})) - PROPERTIES[list]
    if unknown:
        invalid("Could not find member '%s'" % sorted(unknown)[0], "InvalidRequestContent")
    p = dict(body["properties"], provisioningState="Succeeded")
    if list == "securityRules":
        if p["sourceAddressPrefix"] in ("*", "Internet") or not 100 <= p["priority"] <= 4096:
            invalid("rules like that are not what tests expect")
        for other in all:
            if other["name"] != name and other["properties"]["priority"] == p["priority"]:
                raise Refusal(400, "SecurityRuleConflict", "Security rule %s conflicts with rule %s." % (name, other["name"]))
    all[:] = [one for one in all if one["name"] != name] + [{"id": "%s/%s/%s" % (parent, list, name), "name": name, "properties": p}]
    return 201, all[-1], {}


def boot(thing, data):
    door = known(thing["properties"]["networkProfile"]["networkInterfaces"][0]["id"], "boot")
    public = known(door["properties"]["ipConfigurations"][0]["properties"]["publicIPAddress"]["id"], "boot")
    folder = os.path.join(FOLDER, "%s-%d" % (thing["name"], next(numbers)))
    os.makedirs(folder)
    with open(os.path.join(folder, "user-data"), "wb") as file:
        file.write(data)
    words = [MACHINE, folder, public["properties"]["ipAddress"]] + [word for word in ("broken", "impostor") if how[word]]
    machines[thing["id"].lower()] = subprocess.Popen(words, stdin=subprocess.PIPE)


def end(key):
    """As cutting the power would."""
    machine = machines.pop(key, None)
    if machine:
        machine.stdin.close()
        machine.wait(20)


def allow(action, scope):
    for role in [ROLE]:
        fits = lambda list: any(re.fullmatch(re.escape(one).replace(r"\*", ".*"), action, re.I) for one in role.get(list, []))
        if fits("Actions") and not fits("NotActions"):
            return
    raise Refusal(403, "AuthorizationFailed", "The client '%s' with object id 'x' does not have authorization to perform action '%s' over scope '%s'." % (CLIENT, action, scope))


def shown(thing, view=False):
    out = {name: value for name, value in thing.items() if name not in ("asked", "kind", "word", "data", "hidden")}
    if view and thing["kind"] == "virtualMachines":
        statuses = [{"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded"},
                    {"code": "PowerState/" + thing.get("power", "running"), "level": "Info", "displayStatus": "VM " + thing.get("power", "running")}]
        out["properties"] = dict(out["properties"], instanceView={"statuses": statuses})
    return out


def sku(row, location):
    why = how["blocked"].get(row["name"])
    limits = [{"type": "Location", "values": [location], "reasonCode": why, "restrictionInfo": {"locations": [location]}}] if why else []
    return {"resourceType": "virtualMachines", "name": row["name"], "tier": "Standard", "locations": [location], "restrictions": limits,
            "capabilities": [{"name": name, "value": value} for name, value in row["said"].items()]}


def arm(method, path, query, body, error):
    """Answers one request: status, body, headers."""
    parts = [part for part in path.split("/") if part]
    low = path.lower()
    provider = next((one for one in ("disks", "skus") if re.search("/microsoft.compute/%s(/|$)" % one, low)), None)
    provider = provider or next((one for one in ("microsoft.authorization", "microsoft.network", "microsoft.compute") if "/%s/" % one in low), "")
    provider = provider or ("locations" if low.endswith("/locations") else "")
    polled = "/operations/" in low or "/operationresults/" in low
    version = query.get("api-version", [""])[0]
    # Newer ones are for the second client, which brings its own.
    if not polled and not (re.fullmatch(r"20\d\d-\d\d-\d\d", version) and version >= VERSIONS[provider]):
        raise Refusal(400, "InvalidApiVersionParameter" if query.get("api-version") else "MissingApiVersionParameter", "The api-version is not valid.")
    if len(parts) < 2 or parts[1] != SUB:
        raise Refusal(404, "SubscriptionNotFound", "The subscription '%s' could not be found." % parts[1])
    verb = {"GET": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}[method]
    rest = parts[2:]
    if polled:
        one = operations.get(parts[-1])
        allow("%s/locations/operations/read" % parts[3], path)
        if not one:
            raise Refusal(404, "NotFound", "no such operation")
        if "/operationresults/" in low:
            return (202, None, {"retry-after": "0", "location": URL + path}) if one["status"] == "InProgress" else (200, None, {})
        return 200, dict({"status": one["status"]}, **({"error": one["error"]} if one["status"] == "Failed" else {})), {"retry-after": "0"} if one["status"] == "InProgress" else {}
    if rest == ["locations"]:
        allow("Microsoft.Resources/subscriptions/locations/read", path)
        return 200, {"value": [{"name": name, "displayName": name.title()} for name in LOCATIONS]}, {}
    if low.endswith("/microsoft.authorization/permissions"):
        allow("Microsoft.Authorization/permissions/read", path)
        return 200, {"value": [{"actions": ROLE["Actions"], "notActions": ROLE.get("NotActions", [])}]}, {}
    if rest[0] == "providers":
        if rest[2] == "locations" and rest[3] not in LOCATIONS:
            raise Refusal(400, "NoRegisteredProviderFound", "No registered resource provider found for location '%s'." % rest[3])
        allow("Microsoft.Compute/" + "/".join(part for n, part in enumerate(rest[2:]) if n % 2 == 0 or len(rest) < 5) + "/read", path)
        if rest[2] == "skus":
            location = re.fullmatch(r"location eq '(\w+)'", query["$filter"][0])[1]
            extra = [{"resourceType": "disks", "name": "Premium_LRS", "tier": "Premium", "locations": [location]}]
            return 200, {"value": extra + [sku(row, location) for row in SIZES if location in LOCATIONS]}, {}
        if rest[-1] == "usages":
            count = lambda name, value, limit: {"unit": "Count", "currentValue": value, "limit": limit, "name": {"value": name, "localizedValue": name}}
            return 200, {"value": [count("cores", 10, 350), count("lowPriorityCores", 0, 100)]}, {}
        image = ":".join((rest[5], rest[9], rest[11])).lower()
        if image not in IMAGES:
            raise Refusal(404, "NotFound", "Artifact: VMImage was not found.")
        return 200, [{"name": name, "location": rest[3], "id": path + "/" + name} for name in IMAGES[image]][-1:], {}
    group = "/" + "/".join(parts[:4])
    if len(rest) == 2:
        allow("Microsoft.Resources/subscriptions/resourceGroups/" + verb, path)
    elif group.lower() not in things:
        raise Refusal(404, "ResourceGroupNotFound", "Resource group '%s' could not be found." % rest[1])
    kind = rest[4] if len(rest) > 4 else "resourceGroups"
    if len(rest) > 2:
        allow("/".join([rest[3], kind] + rest[6:7] + [verb]), path)
    if len(rest) == 5:
        all = [one for one in things.values() if one["kind"].lower() == kind.lower() and one["id"].lower().startswith(low + "/")]
        first = int(query.get("$skiptoken", ["0"])[0])
        page = {"value": [shown(one) for one in all[first:first + how["page"]]]}
        if len(all) > first + how["page"]:
            page["nextLink"] = "%s%s?api-version=%s&$skiptoken=%d" % (URL, path, query["api-version"][0], first + how["page"])
        return 200, page, {}
    kind = "extensions" if rest[6:7] == ["extensions"] else kind
    if len(rest) == 8 and kind != "extensions":
        owner = known("/" + "/".join(parts[:8]), path)
        if method == "GET":
            found = next((one for one in owner["properties"][rest[6]] if one["name"] == rest[7]), None)
            if not found:
                raise Refusal(404, "NotFound", "Resource %s not found." % path)
            return 200, found, {}
        if method != "PUT":
            raise Refusal(405, "MethodNotAllowed", "no")
        return inner("/" + "/".join(parts[:8]), rest[6], rest[7], body)
    thing = things.get(low)
    if method == "PUT":
        return put(path, kind, parts[-1], body, error)
    if not thing:
        if method == "DELETE":
            return 204, None, {}
        raise Refusal(404, "ResourceNotFound", "The Resource '%s' under resource group '%s' was not found." % ("/".join(rest[3:]), rest[1]))
    if method == "GET":
        return 200, shown(thing, query.get("$expand") == ["instanceView"]), {}
    if method == "PATCH":
        if set(body) != {"tags"}:
            invalid("only tags are changed here")
        check_tags(body["tags"])
        thing["tags"] = body["tags"]
        return 200, shown(thing), {}
    if thing["properties"].get("provisioningState") == "Deleting":
        return 202, None, later(lambda _: None)
    return 202, None, delete(thing)


def token(form):
    said = {name: value[0] for name, value in form.items()}
    if said.pop("scope", "") != URL + "/.default":
        return 400, {"error": "invalid_resource", "error_description": "AADSTS500011: The resource principal was not found in the tenant.\r\nTrace ID: x"}
    if said != {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}:
        return 401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: x"}
    tokens["token-%d-%s" % (next(numbers), os.urandom(8).hex())] = True
    return 200, {"token_type": "Bearer", "expires_in": 3599, "access_token": list(tokens)[-1]}


def foreign(rows):
    """Things that others made."""
    for row in rows:
        group = "/subscriptions/%s/resourceGroups/%s" % (SUB, row.get("group", "crabbox-leases"))
        kind = row.get("kind", "virtualMachines")
        provider = "Microsoft.Compute" if kind in ("virtualMachines", "disks") else "Microsoft.Network"
        id = group if kind == "resourceGroups" else "%s/providers/%s/%s/%s" % (group, provider, kind, row["name"])
        base = {"provisioningState": "Succeeded", "hardwareProfile": {"vmSize": "Standard_B2s"}, "subnets": [], "securityRules": []}
        if kind == "virtualMachines":
            base.update(networkProfile={"networkInterfaces": []}, storageProfile={"osDisk": {"name": "none"}})
        things[id.lower()] = {"id": id, "name": row.get("name", row.get("group")), "kind": kind, "location": row.get("location", "eastus"), "tags": row.get("tags", {}),
                              "properties": dict(base, **row.get("properties", {})), "asked": ""}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers={}):
        data = b"" if body is None else json.dumps(body).encode() if not isinstance(body, str) else body.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if data:
            self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def any(self):
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        text = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        if path == "/_fake":
            change = json.loads(text or "{}")
            with lock:
                foreign(change.pop("foreign", []))
                for name, members in change.pop("change", {}).items():
                    for one in things.values():
                        if one["name"] == name:
                            one.update(members)
                for name in change.pop("vanish", []):
                    for key in [key for key, one in things.items() if one["name"] == name]:
                        end(key), things.pop(key)
                how.update(change)
                pass_time()
                return self.answer(200, {"things": list(things.values()), "asked": asked, "tokens": list(tokens), "pending": sum(o["status"] == "InProgress" for o in operations.values())})
        if path == "/address/":
            return self.answer(200, "198.51.100.7\n")
        if path == "/prices":
            return self.answer(200, prices(query))
        if path == "/%s/oauth2/v2.0/token" % TENANT:
            with lock:
                asked.append("POST token")
                status, body = token(parse_qs(text))
            return self.answer(status, body)
        parts = [part for part in path.split("/") if part]
        kind = parts[-1] if len(parts) in (7, 5, 3) else parts[-2] if len(parts) > 3 else ""
        what = "%s %s" % (self.command, kind)
        with lock:
            asked.append(what)
            rule = next((rule for rule in how["faults"] if rule.get("times", 1) and what.startswith(rule["on"]) and rule.get("with", "") in text), {})
            if "times" in rule:
                rule["times"] -= 1
        time.sleep(rule.get("delay", 0))
        error = {"code": rule["code"], "message": rule.get("message", "")} if "code" in rule else None
        try:
            with lock:
                pass_time()
                if self.headers.get("authorization", "").removeprefix("Bearer ") not in list(tokens) + [how["accept"]]:
                    raise Refusal(401, "InvalidAuthenticationToken", "The access token is invalid.")
                if error and not rule.get("later"):
                    raise Refusal(rule.get("status", 409), rule["code"], rule.get("message", ""), rule.get("headers", {}))
                status, body, headers = arm(self.command, path, query, json.loads(text) if text else {}, error)
        except Refusal as refused:
            status, body, headers = refused.status, refused.body, refused.headers
        if rule.get("lose"):
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.answer(status, body, headers)

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST = any


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        if not isinstance(sys.exc_info()[1], (BrokenPipeError, ConnectionError)):
            super().handle_error(*_)


server = Server(("127.0.0.1", 0), Handler)
URL = "http://127.0.0.1:%d" % server.server_port
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps({"url": URL, "subscription": SUB, "tenant": TENANT, "client": CLIENT}), flush=True)
sys.stdin.read()
with lock:
    for key in list(machines):
        end(key)
os._exit(0)
