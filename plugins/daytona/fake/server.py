#!/usr/bin/env python3
"""A small Daytona for tests: it really runs commands, each sandbox a folder that stands for its machine.

    server.py FOLDER KEY [SSH-SERVER]    prints its port, serves until its standard input ends

API and toolbox are at one address, as `/api` and `/toolbox`. What is below `/home/daytona` in a request is below the
sandbox's folder here. Lines of a session's output are marked as Daytona marks them. `POST /_fake` changes how it
behaves (see `DEFAULTS`), `GET /_fake` tells what it has and what it was asked; neither is Daytona's.
"""
import base64, hashlib, json, os, re, shutil, signal, struct, subprocess, sys, threading, time, uuid
from email.parser import BytesParser

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../tests/fixtures"))
import service
from service import asked, lock

FOLDER, KEY = os.path.abspath(sys.argv[1]), sys.argv[2]
SSH_SERVER = sys.argv[3] if len(sys.argv) > 3 else None
HOME, SNAPSHOT = "/home/daytona", "small"
DEFAULTS = {
    "page": 100,         # most sandboxes on a page
    "circle": False,     # whether every page has the same cursor
    "polls": 1,          # how often a new sandbox is looked at before it is started
    "deleting": 1,       # how often a deleted one is still seen
    "cut": 0,            # how many streams of output end after a few bytes
    "rights": ["write:sandboxes", "delete:sandboxes"],
    "faults": [],        # answers that are given instead; see `service`
}
how, boxes, sessions, access = dict(DEFAULTS), {}, {}, {}


class Refused(service.Refused):
    def __init__(self, status, message, headers=None):
        super().__init__(status, {"statusCode": status, "message": message, "error": "refused"}, headers)


def folder(number):
    return os.path.join(FOLDER, number)


def here(number, text):
    return text.replace(HOME, folder(number) + HOME)


def box(name):
    for found in boxes.values():
        if name in (found["id"], found["name"]):
            return found
    raise Refused(404, "Sandbox with ID or name %s not found" % name)


def shown(found):
    return {key: value for key, value in found.items() if not key.startswith("_")}


def seen(found):
    """How a sandbox looks now; it gets on by being looked at."""
    found["_left"] -= 1
    if found["_left"] < 0 and found["state"] == "destroying":
        boxes.pop(found["id"], None)
        raise Refused(404, "Sandbox with ID or name %s not found" % found["name"])
    if found["_left"] < 0 and found["state"] in ("creating", "starting"):
        found["state"] = "started"
    return shown(found)


def create(wish, port):
    if wish.get("snapshot") != SNAPSHOT:
        raise Refused(400, "Snapshot %s not found. Did you add it through the Daytona Dashboard?" % wish.get("snapshot"))
    number = str(uuid.uuid4())
    name = wish.get("name") or number
    if any(found["name"] == name for found in boxes.values()):
        raise Refused(409, "Sandbox with name %s already exists" % name)
    os.makedirs(folder(number) + HOME)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    boxes[number] = {
        "id": number, "organizationId": "org-1", "name": name, "snapshot": SNAPSHOT, "user": wish.get("user", "daytona"),
        "env": wish.get("env") or {}, "labels": wish.get("labels") or {}, "public": False, "networkBlockAll": False,
        "target": wish.get("target", "us"), "cpu": 1, "gpu": 0, "memory": 1, "disk": 3, "kvm": False, "state": "creating",
        "autoStopInterval": wish.get("autoStopInterval", 15), "autoDeleteInterval": wish.get("autoDeleteInterval", -1),
        "createdAt": now, "updatedAt": now, "toolboxProxyUrl": "http://127.0.0.1:%d/toolbox" % port,
        "_left": how["polls"], "_ttl": wish.get("ttlMinutes")}
    return shown(boxes[number])


def end_all(number):
    """Ends what runs in a sandbox: every process that has its mark."""
    mark = ("DAYTONA_FAKE_BOX=" + folder(number)).encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in open("/proc/%s/environ" % pid, "rb").read().split(b"\0"):
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass


def environment(number):
    home = folder(number) + HOME
    return {"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8", "DAYTONA_FAKE_BOX": folder(number)}


class Command:
    """A command of a session, its output kept as marked lines."""

    def __init__(self, number, session, text):
        self.id, self.text, self.log, self.code, self.news = str(uuid.uuid4()), text, b"", None, threading.Condition()
        self.channels = {1: b"", 2: b""}
        threading.Thread(target=self.run, args=(number, session), daemon=True).start()

    def run(self, number, session):
        with session["turn"]:
            process = subprocess.Popen(["sh", "-c", "{ %s; }" % here(number, self.text)], env=environment(number),
                                       cwd=folder(number) + HOME, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, start_new_session=True)
            session["processes"].append(process)
            pumps = [threading.Thread(target=self.pump, args=(stream, mark))
                     for stream, mark in ((process.stdout, 1), (process.stderr, 2))]
            [each.start() for each in pumps]
            [each.join() for each in pumps]
            code = process.wait()
        with self.news:
            self.code = code if code >= 0 else 128 - code
            self.news.notify_all()

    def pump(self, stream, mark):
        for line in stream:
            # As a shell's `read` has it: without NUL, and always with an end.
            line = line.rstrip(b"\n").replace(b"\0", b"") + b"\n"
            with self.news:
                self.log += bytes([mark] * 3) + line
                self.channels[mark] += line
                self.news.notify_all()

    def document(self):
        document = {"id": self.id, "command": self.text}
        return document if self.code is None else {**document, "exitCode": self.code}

    def done(self):
        with self.news:
            self.news.wait_for(lambda: self.code is not None)
        out, err = (self.channels[mark].decode(errors="replace") for mark in (1, 2))
        return {"cmdId": self.id, "exitCode": self.code, "output": out + err, "stdout": out, "stderr": err}


class Handler(service.Handler):
    how, prefix = how, "/api"

    def do(self, path, fault):
        if self.headers.get("authorization") != "Bearer " + KEY:
            raise Refused(401, "Invalid credentials")
        if path.startswith("/toolbox/"):
            _, _, number, rest = path.split("/", 3)
            return self.toolbox(number, rest.split("/"), fault)
        with lock:
            status, body = self.control(path.removeprefix("/api").strip("/").split("/"))
        self.instead(fault) if fault else self.answer(status, body)

    def told(self):
        with lock:
            if self.command == "POST":
                change = json.loads(self.data)
                for name in change.pop("foreign", []):
                    create({"name": name, "snapshot": SNAPSHOT}, self.server.server_address[1])
                for name, state in change.pop("states", {}).items():
                    box(name)["state"] = state
                how.update(change)
            kept = [{**shown(found), "ttlMinutes": found["_ttl"]} for found in boxes.values()]
            self.answer(200, {"boxes": sorted(found["name"] for found in kept), "asked": asked, "kept": kept,
                              "access": sorted(access)})

    def control(self, parts):
        route, data = (self.command, *parts), json.loads(self.data or b"{}")
        if route == ("GET", "api-keys", "current"):
            return 200, {"name": "test", "value": "dtn_***", "createdAt": "2026-01-01T00:00:00Z", "lastUsedAt": None,
                         "permissions": how["rights"], "expiresAt": None, "userId": "user-1"}
        if parts[0] == "snapshots" and len(parts) == 2:
            return self.snapshot(parts[1])
        if route == ("GET", "sandbox"):
            return 200, self.page()
        if route == ("POST", "sandbox"):
            return 200, create(data, self.server.server_address[1])
        if parts[0] != "sandbox" or len(parts) < 2:
            raise Refused(404, "Cannot %s %s" % (self.command, self.path))
        return self.one(box(parts[1]), (self.command, *parts[2:]), data)

    def one(self, found, route, data):
        if route == ("GET",):
            return 200, seen(found)
        if route == ("DELETE",):
            found.update(state="destroying", _left=how["deleting"])
            end_all(found["id"])
            end_access(lambda entry: entry["box"] == found["id"])
            shutil.rmtree(folder(found["id"]), ignore_errors=True)
            if how["deleting"] == 0:
                boxes.pop(found["id"], None)
            return 200, shown(found)
        if route == ("PUT", "labels"):
            found["labels"] = data["labels"]
            return 200, {"labels": data["labels"]}
        if route == ("POST", "last-activity"):
            return 201, None
        if route == ("POST", "start"):
            found.update(state="starting", _left=how["polls"])
            return 200, shown(found)
        if route == ("POST", "ssh-access"):
            return 200, grant(found, int(self.query.get("expiresInMinutes", 60)))
        if route == ("DELETE", "ssh-access"):
            token = self.query.get("token")
            end_access(lambda entry: entry["box"] == found["id"] and token in (None, entry["token"]))
            return 200, shown(found)
        if route == ("GET", "toolbox-proxy-url"):
            return 200, {"url": found["toolboxProxyUrl"]}
        raise Refused(404, "Cannot %s %s" % (self.command, self.path))

    def snapshot(self, name):
        if name != SNAPSHOT:
            raise Refused(404, "Snapshot with ID %s not found" % name)
        return 200, {"id": "snap-1", "general": False, "name": SNAPSHOT, "state": "active", "size": 1, "entrypoint": None,
                     "cpu": 1, "gpu": 0, "mem": 1, "disk": 3, "errorReason": None, "createdAt": "2026-01-01T00:00:00Z",
                     "updatedAt": "2026-01-01T00:00:00Z", "lastUsedAt": None, "sourceSandboxId": None}

    def page(self):
        wanted = json.loads(self.query.get("labels", "{}")).items()
        all_of = sorted((b for b in boxes.values() if wanted <= b["labels"].items() and b["state"] != "destroying"), key=lambda b: b["name"])
        offset, limit = int(self.query.get("cursor") or 0), min(int(self.query.get("limit", 100)), how["page"])
        more = how["circle"] or offset + limit < len(all_of)
        following = ("0" if how["circle"] else str(offset + limit)) if more else None
        return {"items": [shown(item) for item in all_of[offset:offset + limit]], "nextCursor": following}

    def toolbox(self, number, parts, fault):
        found = box(number)
        if found["state"] != "started":
            raise Refused(400, "Sandbox is not started")
        route = (self.command, *parts)
        if self.command == "POST" and parts[0] == "files":
            self.answer(200, self.upload(number, parts))
            return
        if route[:3] != (self.command, "process", "session"):
            raise Refused(404, "no such place")
        if len(parts) == 2:
            return self.open_session(number)
        session = sessions.get((number, parts[2]))
        if session is None:
            raise Refused(404, "session not found")
        if route[4:] == ("exec",):
            return self.execute(number, session, fault)
        if route[0] == "DELETE" and len(parts) == 3:
            sessions.pop((number, parts[2]))
            for process in session["processes"]:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except OSError:
                    pass
            return self.answer(204)
        command = session["commands"].get(parts[4]) if len(parts) > 4 else None
        if command is None:
            raise Refused(404, "command not found")
        if parts[5:] == ["logs"]:
            return self.logs(command)
        self.answer(200, command.document())

    def open_session(self, number):
        name = json.loads(self.data)["sessionId"]
        if (number, name) in sessions:
            raise Refused(409, "session already exists")
        sessions[number, name] = {"turn": threading.Lock(), "commands": {}, "processes": []}
        self.answer(201)

    def execute(self, number, session, fault):
        wish = json.loads(self.data)
        command = Command(number, session, wish["command"])
        session["commands"][command.id] = command
        later = wish.get("runAsync") or wish.get("async")
        status, body = (202, {"cmdId": command.id}) if later else (200, command.done())
        self.instead(fault) if fault else self.answer(status, body)

    def upload(self, number, parts):
        kind = self.headers.get("content-type", "")
        fields, file = {}, self.data
        if kind.startswith("multipart/"):
            head = ("content-type: %s\r\n\r\n" % kind).encode()
            for part in BytesParser().parsebytes(head + self.data).get_payload():
                fields[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True)
        pairs = [(self.query.get("path"), fields.get("file", file))]
        if parts[1] == "bulk-upload":
            names = [name.removesuffix(".path") for name in fields if name.endswith(".path")]
            pairs = [(fields[name + ".path"].decode(), fields[name + ".file"]) for name in names]
        for path, data in pairs:
            path = here(number, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as into:
                into.write(data)
        return {"path": pairs[0][0]}

    def logs(self, command):
        if self.headers.get("upgrade", "").lower() != "websocket":
            out, err = (command.channels[mark].decode(errors="replace") for mark in (1, 2))
            return self.answer(200, {"output": out + err, "stdout": out, "stderr": err})
        digest = hashlib.sha1((self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        self.send_response(101)
        for name, value in (("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", base64.b64encode(digest).decode())):
            self.send_header(name, value)
        offered = self.headers.get("sec-websocket-protocol")
        if offered:
            self.send_header("sec-websocket-protocol", offered.split(",")[0].strip())
        self.end_headers()
        self.close_connection = True
        split = self.headers.get("x-daytona-split-output") == "true" or self.headers.get("x-daytona-sdk-version") or offered
        with lock:
            cut = how["cut"] > 0
            how["cut"] -= int(cut)
        try:
            self.stream(command, split, cut)
        except OSError:
            pass  # Nobody listens any more; the command goes on.

    def stream(self, command, split, cut):
        sent = 0
        while True:
            with command.news:
                command.news.wait_for(lambda: len(command.log) > sent or command.code is not None)
                piece, over = command.log[sent:sent + 32768], command.code is not None
            sent += len(piece)
            if cut:
                return self.frame(2, piece[:7])
            if piece:
                self.frame(2, piece if split else piece.replace(b"\1\1\1", b"").replace(b"\2\2\2", b""))
            elif over:
                return self.frame(8, struct.pack(">H", 1000))

    def frame(self, kind, data):
        size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
        if len(data) > 65535:
            size = b"\x7f" + struct.pack(">Q", len(data))
        self.wfile.write(bytes([0x80 | kind]) + size + data)
        self.wfile.flush()


def grant(found, minutes):
    """A token for SSH: the user name at a server that runs commands in the sandbox's folder."""
    token = "sshtok-" + uuid.uuid4().hex
    now = time.time()
    stamp = lambda at: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    if not SSH_SERVER:
        raise Refused(403, "SSH access is not enabled for this organization")
    words = [SSH_SERVER, folder(found["id"]) + HOME, token, "DAYTONA_FAKE_BOX=" + folder(found["id"])]
    process = subprocess.Popen(words, env={"PATH": os.environ["PATH"]}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    port = int(process.stdout.readline())
    access[token] = {"box": found["id"], "token": token, "process": process}
    return {"id": str(uuid.uuid4()), "sandboxId": found["id"], "token": token, "expiresAt": stamp(now + minutes * 60),
            "createdAt": stamp(now), "updatedAt": stamp(now), "sshCommand": "ssh -p %d %s@127.0.0.1" % (port, token)}


def end_access(which):
    for token in [token for token, entry in access.items() if which(entry)]:
        entry = access.pop(token)
        entry["process"].stdin.close()
        entry["process"].wait()


service.serve(Handler)
end_access(lambda _: True)
for known in list(boxes):
    end_all(known)
