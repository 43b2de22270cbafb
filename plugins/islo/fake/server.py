#!/usr/bin/env python3
"""A small Islo for tests: it really runs commands, each sandbox a folder that stands for its machine.

    server.py FOLDER KEY    prints its port, serves until its standard input ends

What is below `/workspace` in a request is below the sandbox's folder here. `POST /_fake` changes how it behaves
(see `DEFAULTS`), `GET /_fake` tells what it has and what it was asked; neither is Islo's.
"""
import codecs, json, os, re, shutil, signal, subprocess, sys, threading, time, uuid
from email.parser import BytesParser

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../tests/fixtures"))
import service
from service import asked, lock

FOLDER, KEY = os.path.abspath(sys.argv[1]), sys.argv[2]
DEFAULTS = {
    "page": 100,         # most sandboxes on a page
    "polls": 1,          # how often a new sandbox is looked at before it is ready
    "deleting": 0,       # how often a deleted one is still seen
    "session": 600,      # seconds a session lasts
    "cursors": True,     # whether pages have a cursor
    "cut": 0,            # streams that end without their exit event
    "faults": [],        # answers that are given instead; see `service`
}
how, boxes, sessions, execs = dict(DEFAULTS), {}, {}, {}


class Refused(service.Refused):
    def __init__(self, status, code, message, headers=None, **more):
        super().__init__(status, {"code": code, "message": message, "request_id": "req-%d" % len(asked), **more}, headers)


def folder(name):
    return os.path.join(FOLDER, name)


def here(name, path):
    return folder(name) + path if path == "/workspace" or path.startswith("/workspace/") else path


def box(name):
    found = boxes.get(name)
    if found is None:
        raise Refused(404, "SANDBOX_NOT_FOUND", "no sandbox " + name)
    return found


def seen(found):
    """How a sandbox looks now; it gets on by being looked at."""
    if found["status"] == "deleting":
        found["_left"] -= 1
        if found["_left"] < 0:
            boxes.pop(found["name"], None)
            raise Refused(404, "SANDBOX_NOT_FOUND", "no sandbox " + found["name"])
    elif found["_left"] > 0:
        found["_left"] -= 1
        found["creation_phase"] = "pulling_image"
    elif found["status"] == "creating":
        found.update(status="running", creation_phase="ready")
    return {key: value for key, value in found.items() if not key.startswith("_")}


def create(asked_for):
    name = asked_for.get("name") or "box-" + uuid.uuid4().hex[:8]
    if name in boxes:
        raise Refused(409, "SANDBOX_ALREADY_EXISTS", "there is a sandbox " + name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise Refused(400, "VALIDATION_ERROR", "no name for a sandbox: " + name)
    os.makedirs(folder(name) + "/workspace")
    spec = {key: asked_for.get(key, usual) for key, usual in (("vcpus", 2), ("memory_mb", 4096), ("disk_gb", 20))}
    boxes[name] = {"id": str(uuid.uuid4()), "name": name, "image": asked_for.get("image", "default"), "spec": spec,
                   "status": "creating", "creation_phase": "queued", "workdir": asked_for.get("workdir"),
                   "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "_left": how["polls"]}
    return seen(boxes[name])


def end_all(name):
    """Ends what runs in a sandbox: every process that has its mark."""
    mark = ("ISLO_FAKE_BOX=" + folder(name)).encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in open("/proc/%s/environ" % pid, "rb").read().split(b"\0"):
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass


def start(name, asked_for):
    found = box(name)
    if found["status"] != "running":
        raise Refused(409, "SANDBOX_INVALID_STATE", "the sandbox is " + found["status"])
    command = [here(name, word) for word in asked_for["command"]]
    env = {"PATH": os.environ["PATH"], "HOME": folder(name), "LANG": "C.UTF-8", "ISLO_FAKE_BOX": folder(name)}
    env.update({key: value for key, value in (asked_for.get("env") or {}).items() if value is not None})
    where = here(name, asked_for.get("workdir") or folder(name))
    try:
        return subprocess.Popen(command, env=env, cwd=where, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True)
    except OSError as why:
        raise Refused(400, "EXEC_FAILED", str(why))


def pump(stream, tell):
    text = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        piece = os.read(stream.fileno(), 32768)
        said = text.decode(piece, final=not piece)
        if said:
            tell(said)
        if not piece:
            return


def run(process, tell):
    pumps = [threading.Thread(target=pump, args=(stream, lambda text, kind=kind: tell(kind, text)))
             for kind, stream in (("stdout", process.stdout), ("stderr", process.stderr))]
    [each.start() for each in pumps]
    [each.join() for each in pumps]
    code = process.wait()
    return code if code >= 0 else 128 - code


class Handler(service.Handler):
    how = how

    def told(self):
        with lock:
            if self.command == "POST":
                change = json.loads(self.data)
                if change.pop("revoke", False):
                    sessions.clear()
                if "foreign" in change:
                    create({"name": change.pop("foreign")})
                how.update(change)
            self.answer(200, {"boxes": sorted(boxes), "asked": asked, "sessions": len(sessions)})

    def authorised(self):
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if sessions.get(token, 0) < time.time():
            raise Refused(401, "AUTH_TOKEN_INVALID", "no session")

    def do(self, path, fault):
        parts = path.strip("/").split("/")
        if (self.command, parts) == ("POST", ["auth", "token"]):
            if json.loads(self.data).get("access_key") != KEY:
                raise Refused(401, "AUTH_REQUIRED", "no such key")
            token = "session-" + uuid.uuid4().hex
            sessions[token] = time.time() + how["session"]
            return self.answer(200, {"session_token": token, "cookie_max_age": how["session"]})
        self.authorised()
        if parts[0] != "sandboxes":
            raise Refused(404, "NOT_FOUND", "no such place")
        name = parts[1] if len(parts) > 1 else None
        route = (self.command, *parts[2:])
        if route[1:] == ("exec", "stream"):
            return self.stream(name)
        with lock:
            status, body = self.carry_out(name, route)
        self.instead(fault) if fault else self.answer(status, body)

    def carry_out(self, name, route):
        if name is None:
            return (200, self.page()) if route == ("GET",) else (201, create(json.loads(self.data)))
        if name == "-":
            return 200, seen(next((b for b in boxes.values() if b["id"] == route[2]), None) or box("-"))
        if route == ("GET",):
            return 200, seen(box(name))
        if route == ("DELETE",):
            box(name).update(status="deleting", _left=how["deleting"])
            end_all(name)
            shutil.rmtree(folder(name), ignore_errors=True)
            if how["deleting"] == 0:
                boxes.pop(name)
            return 204, None
        if route == ("POST", "files-archive"):
            return 200, self.unpack(name)
        if route == ("POST", "exec"):
            return 202, self.background(name)
        if len(route) == 3 and route[:2] == ("GET", "exec") and route[2] in execs:
            return 200, execs[route[2]]
        raise Refused(404, "NOT_FOUND", "no such place")

    def page(self):
        prefix, limit = self.query.get("name_prefix", ""), int(self.query.get("limit", 50))
        offset = int(self.query.get("cursor") or self.query.get("offset") or 0)
        names = sorted(name for name in list(boxes) if name.startswith(prefix))
        limit = min(limit, how["page"])
        items = [boxes[name] for name in names[offset:offset + limit]]
        page = {"items": [{k: v for k, v in item.items() if not k.startswith("_")} for item in items], "total": len(names),
                "limit": limit, "offset": offset}
        if how["cursors"] and offset + limit < len(names):
            page["next_cursor"] = str(offset + limit)
        return page

    def unpack(self, name):
        box(name)
        kind = ("content-type: %s\r\n\r\n" % self.headers["content-type"]).encode()
        part = next(p for p in BytesParser().parsebytes(kind + self.data).get_payload()
                    if p.get_param("name", header="content-disposition") == "file")
        into = here(name, self.query["path"])
        os.makedirs(into, exist_ok=True)
        subprocess.run(["tar", "-xzf", "-", "-C", into], input=part.get_payload(decode=True), check=True)
        return {"status": "ok"}

    def background(self, name):
        process, number = start(name, json.loads(self.data)), uuid.uuid4().hex
        result = {"exec_id": number, "status": "running", "stdout": "", "stderr": "", "truncated": False}
        execs[number] = result

        def wait():
            def tell(kind, text):
                result[kind] += text
            code = run(process, tell)
            result.update(status="completed", exit_code=code)
        threading.Thread(target=wait, daemon=True).start()
        return {"exec_id": number, "sandbox_id": boxes[name]["id"], "status": "running"}

    def stream(self, name):
        with lock:
            process = start(name, json.loads(self.data))
            own = "crabbox: this run was started" in str(self.data)
            cut = own and how["cut"] > 0
            how["cut"] -= int(cut)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        turn = threading.Lock()

        def tell(kind, text):
            lines = "".join("data: %s\n" % line for line in text.split("\n"))
            data = ("event: %s\n%s\n" % (kind, lines)).encode()
            try:
                with turn:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    self.wfile.flush()
            except OSError:
                pass  # Nobody listens any more; the command goes on.
        code = run(process, tell)
        if not cut:
            tell("exit", str(code))
        try:
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass


service.serve(Handler)
for known in list(boxes):
    end_all(known)
