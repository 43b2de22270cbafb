#!/usr/bin/env python3
"""A small Blacksmith command line for tests: its state is the folder named by BLACKSMITH_FAKE.

slots/NAME.json   a machine that can be a testbox: host, port, user, home, keys (its authorized_keys), work
boxes/ID.json     a testbox: slot, status, workflow, job, ref, created, looks
faults.json       {"ACTION": {...}}: how the next calls of an action misbehave, see `fault`
asked.jsonl       every call: its arguments, folder, and what of the environment matters
"""

import datetime
import fcntl
import glob
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

STATE = os.environ["BLACKSMITH_FAKE"]


def at(*parts):
    return os.path.join(STATE, *parts)


def load(path, default):
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return default


def save(path, value):
    with open(path + ".new", "w") as file:
        json.dump(value, file)
    os.rename(path + ".new", path)


def locked():
    lock = open(at("lock"), "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def die(text, code=1):
    print(text, file=sys.stderr, flush=True)
    sys.exit(code)


def fault(action):
    """Takes one: `text` and `error` to print, `exit` to end with, `sleep` before that, `after` it was done, `times`;
    `linger` before the end."""
    with locked():
        faults = load(at("faults.json"), {})
        found = faults.get(action)
        if not found:
            return {}
        found["times"] = found.get("times", 1) - 1
        if found["times"] <= 0:
            del faults[action]
        save(at("faults.json"), faults)
        return found


def misbehave(found, id=""):
    time.sleep(found.get("sleep", 0))
    sys.stdout.write(found.get("text", "").replace("{id}", id))
    sys.stderr.write(found.get("error", ""))
    sys.stdout.flush()
    sys.stderr.flush()
    if "exit" in found:
        sys.exit(found["exit"])


def options(words, flags, switches=()):
    """Values by flag, and the words that are none."""
    values, rest = {}, []
    words = list(words)
    while words:
        word = words.pop(0)
        if word in flags:
            if not words:
                die(f"flag needs an argument: {word}")
            values[word] = words.pop(0)
        elif word in switches:
            values[word] = True
        elif word.startswith("-"):
            die(f"unknown flag: {word}")
        else:
            rest.append(word)
    return values, rest


def boxes():
    found = {}
    for path in sorted(glob.glob(at("boxes", "*.json"))):
        found[os.path.basename(path)[:-5]] = load(path, {})
    return found


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def warmup(words):
    flags = ["--job", "--ref", "--ssh-public-key", "--idle-timeout"]
    values, rest = options(words, flags)
    if len(rest) != 1:
        die("accepts 1 arg(s)")
    if not values.get("--ssh-public-key", "").startswith("ssh-ed25519 "):
        die("invalid SSH public key")
    found = fault("warmup")
    if found and not found.get("after"):
        misbehave(found)
    with locked():
        used = {box["slot"] for box in boxes().values() if box["status"] != "completed"}
        free = [slot for slot in sorted(glob.glob(at("slots", "*.json"))) if slot not in used]
        if not free:
            die("Error: concurrency limit reached for this organization")
        count = len(os.listdir(at("boxes"))) + 1
        id = "tbx_01k%04d-%s" % (count, os.urandom(3).hex())
        slot = load(free[0], {})
        hydration = load(at("hydration.json"), ["ready"])
        box = {
            "slot": free[0], "status": hydration[0], "coming": hydration[1:], "workflow": rest[0],
            "job": values.get("--job", "default"), "ref": values.get("--ref", "main"), "created": now(),
            "idle": int(values.get("--idle-timeout", 30)), "key": values["--ssh-public-key"],
        }
        for path in (slot["keys"], os.path.join(slot["home"], ".ssh", "authorized_keys")):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(box["key"] + "\n")
        os.makedirs(os.path.join(slot["work"], id), exist_ok=True)
        save(at("boxes", id + ".json"), box)
    if found:
        misbehave(found, id)
    print(f"Dispatching {rest[0]}...", flush=True)
    print(f"✓ Testbox {id} (run `blacksmith testbox run --id {id} <command>`)", flush=True)
    time.sleep(found.get("linger", 0))


def advance(id):
    """The next state of a testbox that comes: one step a look."""
    with locked():
        path = at("boxes", id + ".json")
        box = load(path, None)
        if box and box["coming"]:
            box["status"] = box["coming"].pop(0)
            save(path, box)
        return box


def listing(words):
    values, _ = options(words, [], ["--all"])
    misbehave(fault("list"))
    rows = []
    for id, box in boxes().items():
        if box["status"] == "completed" and "--all" not in values:
            continue
        rows.append([id, box["status"], "example/app", box["workflow"], box["job"], box["ref"], box["created"]])
        advance(id)
    if not rows:
        print("No testboxes found.")
        return
    rows.insert(0, ["ID", "STATUS", "REPO", "WORKFLOW", "JOB", "REF", "CREATED"])
    for row in rows:
        print("   ".join(word.ljust(12) for word in row))


def named(words, flags=(), switches=()):
    values, rest = options(words, ["--id", *flags], switches)
    id = values.get("--id", "")
    if not re.fullmatch(r"tbx_[A-Za-z0-9_-]+", id) or not os.path.exists(at("boxes", id + ".json")):
        die(f"Error: testbox {id} not found")
    return id, values, rest


def run(words):
    id, values, rest = named(words, ["--ssh-private-key"], ["--debug"])
    if len(rest) != 1:
        die("accepts 1 arg(s)")
    misbehave(fault("run"))
    box = load(at("boxes", id + ".json"), {})
    while box["status"] in ("queued", "hydrating"):
        time.sleep(0.2)
        box = advance(id)
    if box["status"] != "ready":
        die(f"Error: testbox {id} is {box['status']}")
    slot = load(box["slot"], {})
    to = f"{slot['user']}@{slot['host']}"
    ssh = [
        "ssh", "-F", "none", "-i", values["--ssh-private-key"], "-p", str(slot["port"]), "-o", "BatchMode=yes",
        "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "-o", "LogLevel=ERROR",
    ]
    tree = os.path.join(slot["work"], id)
    sent = subprocess.run(
        ["rsync", "-a", "--delete", "--checksum", "--filter=:- .gitignore", "--exclude=/.git", "-e", shlex.join(ssh),
         "./", f"{to}:{tree}/"],
        stdout=subprocess.DEVNULL,
    )
    if sent.returncode:
        die("Error: sync failed", 255)
    # A session of its own whose number is said first, so that it can be ended from here.
    inner = f"cd {shlex.quote(tree)} && exec setsid -w sh -c {shlex.quote('echo $$ >../' + id + '.pid; ' + rest[0])}"
    # The interrupt is ours to pass on: the connection stays until the command has ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen([*ssh, to, inner], stdin=subprocess.DEVNULL)

    def end(number, _frame):
        kill = f"kill -TERM -$(cat {shlex.quote(tree + '.pid')})"
        subprocess.run([*ssh, to, kill], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    sys.exit(child.wait())


def stop(words):
    id, _, _ = named(words)
    found = fault("stop")
    if not found.get("after"):
        misbehave(found)
    with locked():
        path = at("boxes", id + ".json")
        box = load(path, {})
        box.update(status="completed", coming=[])
        slot = load(box["slot"], {})
        for keys in (slot["keys"], os.path.join(slot["home"], ".ssh", "authorized_keys")):
            open(keys, "w").close()
        save(path, box)
    try:
        with open(os.path.join(slot["work"], id + ".pid")) as file:
            os.killpg(int(file.read()), signal.SIGKILL)
    except (OSError, ValueError):
        pass
    misbehave(found if found.get("after") else {})
    print(f"Stopped {id}")


def main(words):
    with locked(), open(at("asked.jsonl"), "a") as log:
        names = ("PWD", "SSH_AUTH_SOCK", "CI", "BLACKSMITH_ORG")
        env = {name: os.environ[name] for name in names if name in os.environ}
        log.write(json.dumps({"args": words, "cwd": os.getcwd(), "env": env}) + "\n")
    if words[:1] == ["--org"]:
        words = words[2:]
    actions = {"warmup": warmup, "run": run, "list": listing, "stop": stop}
    if words[:1] != ["testbox"] or len(words) < 2 or words[1] not in actions:
        die(f"unknown command {words[:2]}")
    actions[words[1]](words[2:])


main(sys.argv[1:])
