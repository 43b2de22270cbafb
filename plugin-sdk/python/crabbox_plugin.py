"""Everything a crabbox provider in Python needs, in one file: copy it beside your program.

Subclass `SshLease` or `DelegatedRun`, raise `Failure` for what goes wrong, end with `serve(YourProvider)`. Every method
runs on a thread of its own and gets a `Call`: its way to the kernel. Python 3.11 or newer, standard library only; the
protocol is described in docs/protocol.md. Standard output is safe to print to: it goes to the log.
"""
import base64, itertools, json, os, pathlib, queue, sys, threading, time, tomllib

KINDS = {"invalid_config": 1001, "invalid_request": 1002, "unsupported": 1003, "auth": 1010, "permission": 1011,
         "billing": 1012, "not_found": 1020, "conflict": 1021, "precondition": 1022, "expired": 1023, "capacity": 1030,
         "quota": 1031, "rate_limited": 1032, "transient": 1040, "timeout": 1041, "bootstrap": 1042, "cancelled": 1050,
         "grant_denied": 1060, "internal": 1099}
CHUNK, GRACE = 48 * 1024, 10.0
class Failure(Exception):
    """A failure with a kind of the table above; `outcome` says whether something may be left behind."""

    def __init__(self, kind, message, outcome="not-started", **data):
        super().__init__(message)
        self.kind, message = kind, " ".join(str(message).split())[:500]
        self.error = {"code": KINDS.get(kind, 1099), "message": message,
                      "data": {"kind": kind, "outcome": outcome, **data}}

class Call:
    """One open call. Callbacks wait for the kernel's answer and end early when the call is cancelled."""

    def __init__(self, session, id, ctx):
        self.session, self.id, self.idem, self.dry_run = session, id, ctx.get("idem"), ctx.get("dryRun", False)
        self.deadline = time.monotonic() + ctx.get("deadlineMs", 60_000) / 1000
        self.grace, self.stopped = ctx.get("graceMs", 0) / 1000, threading.Event()
        self.credit, self.room, self.offsets = session.window, threading.Condition(), {"stdout": 0, "stderr": 0}

    def cancel(self, grace):
        with self.room:
            self.deadline, self.grace = time.monotonic(), grace
            self.stopped.set()
            self.room.notify_all()

    def check(self):
        """Call it between steps: it ends the work once the kernel wants it to."""
        if self.stopped.is_set() or time.monotonic() >= self.deadline:
            raise Failure("cancelled", "cancelled", "uncertain")

    def ask(self, callback, /, **params):
        """Any callback of docs/protocol.md by name."""
        return self.session.ask(callback, {"call": self.id, **params}, self.deadline + self.grace)

    def tell(self, event, **params):  # log, progress, attempt, usage
        self.session.send({"method": "event/" + event, "params": {"call": self.id, **params}})

    def record(self, kind, cloud_id, billable=False, **more):
        """Right after something was created: returns once the kernel has it on disk."""
        self.ask("host/resource.record", resource={"kind": kind, "cloudId": cloud_id, "billable": billable, **more})

    def forget(self, kind, cloud_id):
        self.ask("host/resource.forget", resource={"kind": kind, "cloudId": cloud_id})

    def sleep(self, seconds):
        """True when the time passed, False when the call was cancelled meanwhile."""
        return not self.stopped.is_set() and self.ask("host/sleep", ms=int(seconds * 1000))["woken"] == "time"

    def http(self, method, url, **more):
        """A request made by the kernel, which holds the credentials: `auth={"bearer": "token"}`."""
        return self.ask("host/http", method=method, url=url, **more)

    def output(self, ch, data):
        """Bytes of a delegated command; waits while the kernel has no room."""
        for at in range(0, len(data), CHUNK):
            part = data[at:at + CHUNK]
            with self.room:
                while self.credit <= 0 and not self.stopped.is_set():
                    self.room.wait(1)
                self.check()
                self.credit -= len(part)
                off, self.offsets[ch] = self.offsets[ch], self.offsets[ch] + len(part)
                self.tell("output", ch=ch, off=off, b64=base64.b64encode(part).decode())

class Provider:
    """What both kinds share: `validate` raises `invalid_config` for what a schema cannot say."""
    idempotent_acquire = False

    def __init__(self, config, user):
        self.config, self.user = config, user

    def validate(self, call, params):
        return {}

    def doctor(self, call, params):
        return {"checks": []}

class SshLease(Provider):
    """Override acquire, resolve, list and release: params and results as in docs/protocol.md."""
    kind, METHODS = "ssh-lease", {f"lease.{m}": m for m in ("acquire", "resolve", "list", "release", "touch")}

    def touch(self, call, params):
        return {"lease": params["lease"]}

class DelegatedRun(Provider):
    """Override warmup, start, list, status and stop: params and results as in docs/protocol.md."""
    kind, METHODS = "delegated-run", {f"run.{m}": m for m in ("warmup", "start", "list", "status", "stop")}

class Session:
    def __init__(self, provider, manifest):
        self.provider, self.manifest, self.instance, self.window = provider, manifest, None, 1 << 20
        self.methods = {"config.validate": "validate", "doctor": "doctor", **provider.METHODS}
        self.lock, self.calls, self.waiting, self.ids, self.down = threading.Lock(), {}, {}, itertools.count(1), False
        self.reader, self.writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(2, 1)

    def send(self, frame):
        line = json.dumps({"jsonrpc": "2.0", **frame}, ensure_ascii=False).encode() + b"\n"
        with self.lock:
            self.writer.write(line)
            self.writer.flush()

    def ask(self, method, params, until):
        answer, id = queue.SimpleQueue(), f"p{next(self.ids)}"
        self.waiting[id] = answer
        self.send({"id": id, "method": method, "params": params})
        try:
            frame = answer.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise Failure("timeout", f"the kernel did not answer {method}", "uncertain") from None
        finally:
            self.waiting.pop(id, None)
        if error := frame.get("error"):
            raise Failure(error.get("data", {}).get("kind", "internal"), error["message"], "uncertain")
        return frame["result"]

    def initialize(self, params):
        if "1.0" not in params["protocols"]:
            offered = ", ".join(params["protocols"])
            raise Failure("unsupported", f"no common protocol: the kernel offers {offered}, the plugin speaks 1.0",
                          hint="update the older of the two")
        name = params["instance"]["provider"]
        entry = next((p for p in self.manifest["provider"] if p["name"] == name), None)
        if entry is None:
            raise Failure("unsupported", f"no provider {name}")
        self.window = params.get("limits", {}).get("outputWindow", self.window)
        self.instance = self.provider(params["instance"].get("config", {}), params["instance"].get("user", {}))
        return {"protocol": "1.0", "plugin": {"id": self.manifest["id"], "version": self.manifest["version"]},
                "provider": {"name": entry["name"], "kind": self.provider.kind, "features": entry.get("features", []),
                             "idempotentAcquire": self.provider.idempotent_acquire},
                "methods": [*self.methods]}

    def work(self, id, act):
        try:
            result = {"result": act()}
        except Failure as failure:
            result = {"error": failure.error}
        except Exception as error:  # a bug of the provider costs one call
            result = {"error": Failure("internal", repr(error), "uncertain").error}
        self.calls.pop(id, None)
        self.send({"id": id, **result})

    def request(self, id, method, params):
        if method in ("ping", "shutdown") and self.instance:
            self.down |= method == "shutdown"
            return self.send({"id": id, "result": {}})
        if method == "initialize" and not self.instance:
            return self.work(id, lambda: self.initialize(params))
        if method == "initialize" or not self.instance or self.down:
            why = "the session is shut down" if self.down else "initialize comes first, and once"
            return self.send({"id": id, "error": {"code": -32600, "message": why}})
        if method not in self.methods:
            return self.send({"id": id, "error": {"code": -32601, "message": f"no method {method}"}})
        act = getattr(self.instance, self.methods[method])
        call = self.calls[id] = Call(self, id, params.get("ctx", {}))
        threading.Thread(target=self.work, args=(id, lambda: call.check() or act(call, params)), daemon=True).start()

    def take(self, frame):
        method, params = frame.get("method"), frame.get("params", {})
        if method and "id" in frame:
            self.request(frame["id"], method, params)
        elif method == "$/cancel" and (call := self.calls.get(params.get("id"))):
            call.cancel(params.get("graceMs", 0) / 1000)
        elif method == "$/credit" and (call := self.calls.get(params.get("call"))):
            with call.room:
                call.credit += params["bytes"]
                call.room.notify_all()
        elif not method and (waiting := self.waiting.get(frame.get("id"))):
            waiting.put(frame)

    def run(self):
        while line := self.reader.readline((1 << 20) + 1):
            if line.strip():
                self.take(json.loads(line))  # what is no frame ends the plugin
        gone = {"error": {"message": "the kernel is gone", "data": {"kind": "cancelled"}}}
        [call.cancel(GRACE) for call in list(self.calls.values())]
        [waiting.put(gone) for waiting in list(self.waiting.values())]
        for _ in range(int(GRACE * 50)):
            self.calls and time.sleep(0.02)

def serve(provider):
    """The `main` of a plugin: serves the kernel that started this process, then ends it."""
    if os.environ.get("CRABBOX_PLUGIN") != "1":
        print("this is a crabbox plugin; crabbox starts it by itself", file=sys.stderr)
        os._exit(64)
    manifest = pathlib.Path(sys.argv[0]).resolve().with_name("crabbox-plugin.toml")
    Session(provider, tomllib.loads(manifest.read_text())).run()
    os._exit(0)
