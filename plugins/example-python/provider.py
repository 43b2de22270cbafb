#!/usr/bin/env python3
"""A provider without an SDK: a box is a folder, a command runs in it, one call at a time. See README.md."""
import base64, json, os, pathlib, shutil, subprocess, sys, tarfile
if os.environ.get("CRABBOX_PLUGIN") != "1":
    print("this is a crabbox plugin; crabbox starts it by itself", file=sys.stderr) or sys.exit(64)
boxes, wire = pathlib.Path(os.environ["CRABBOX_STATE_DIR"], "boxes"), os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # stray prints go to the log
OFFER = {"protocol": "1.0", "plugin": {"id": "crabbox/example-python", "version": "0.1.0"}, "provider": {"name": "example-python",
         "kind": "delegated-run"}, "methods": [f"run.{m}" for m in ("warmup", "start", "list", "status", "stop")]}
def send(**frame): print(json.dumps({"jsonrpc": "2.0", **frame}), file=wire, flush=True)
def refuse(code, kind, text): return {"error": {"code": code, "message": text, "data": {"kind": kind}}}
def known(): return [json.loads(label.read_text()) for label in boxes.glob("*/label.json")]
def warmup(id, lease):
    (boxes / lease["cloudId"] / "tree").mkdir(parents=True, exist_ok=True)
    (boxes / lease["cloudId"] / "label.json").write_text(json.dumps(lease))
    send(id="p1", method="host/resource.record", params={"call": id, "resource": {"kind": "folder", "cloudId": lease["cloudId"]}})
    sys.stdin.readline()  # the kernel has it on disk now
    return {"result": {"lease": lease}}

def start(id, tree, p):
    if "workspace" in p: tarfile.open(p["workspace"]).extractall(tree)
    done = subprocess.run(["env", "--", *p["command"]], cwd=tree, env={**os.environ, **p["env"]}, stdin=subprocess.DEVNULL, capture_output=True)
    for ch, data in (("stdout", done.stdout), ("stderr", done.stderr)):
        for off in range(0, len(data), 48_000):  # a careful provider waits for credit beyond 1 MiB
            send(method="event/output", params={"call": id, "ch": ch, "off": off, "b64": base64.b64encode(data[off:off + 48_000]).decode()})
    return {"result": {"exitCode": done.returncode if done.returncode >= 0 else 128 - done.returncode}}

def answer(id, method, p):
    if method == "run.warmup": return warmup(id, {**p["desired"], "cloudId": p["desired"]["leaseId"], "status": "ready"})
    box = next((b for b in known() if p.get("id", p.get("lease", {}).get("cloudId")) in (b["leaseId"], b["slug"], b["name"], b["cloudId"])), None)
    if method in ("run.status", "run.start") and not box: return refuse(1020, "not_found", "no such box")
    if method == "run.start": return start(id, boxes / box["cloudId"] / "tree", p)
    if method == "run.stop" and box and p["expected"]["leaseId"] != box["leaseId"]: return refuse(1022, "precondition", "not yours")
    if method == "run.stop" and box: shutil.rmtree(boxes / box["cloudId"])
    results = {"initialize": OFFER, "ping": {}, "shutdown": {}, "doctor": {"checks": []}, "run.status": {"lease": box},
               "run.list": {"leases": known(), "complete": True}, "run.stop": {"outcome": "released" if box else "already_gone"}}
    return {"result": results[method]} if method in results else {"error": {"code": -32601, "message": f"no method {method}"}}
for frame in (json.loads(line) for line in sys.stdin if line.strip()):
    if "method" in frame and "id" in frame: send(id=frame["id"], **answer(frame["id"], frame["method"], frame["params"]))
