#!/usr/bin/env python3
"""A provider that runs commands in folders of this machine. Replace what touches folders by your platform's calls."""
import json, os, pathlib, shutil, signal, subprocess, tarfile, threading

from crabbox_plugin import DelegatedRun, Failure, serve


class ToyPlatform(DelegatedRun):
    idempotent_acquire = True

    def __init__(self, config, user):
        super().__init__(config, user)
        self.root = pathlib.Path(config.get("root") or os.environ["CRABBOX_STATE_DIR"], "boxes")

    # One folder is one box; `box.json` in it is its label.

    def box(self, cloud_id):
        if "/" in cloud_id or not (label := self.root / cloud_id / "box.json").is_file():
            return None
        return json.loads(label.read_text())

    def boxes(self):
        return [box for path in self.root.glob("*/box.json") if (box := self.box(path.parent.name))]

    def warmup(self, call, params):
        desired = params["desired"]
        folder = self.root / desired["leaseId"]
        lease = {**desired, "cloudId": desired["leaseId"], "status": "ready", "serverType": "folder",
                 "labels": params.get("labels", {})}
        (folder / "work").mkdir(parents=True, exist_ok=True)
        call.record("folder", lease["cloudId"])  # before anything else: from now on it can be found again
        (folder / "box.json").write_text(json.dumps(lease))
        return {"lease": lease}

    def status(self, call, params):
        for box in self.boxes():
            if params["id"] in (box["leaseId"], box["slug"], box["name"], box["cloudId"]):
                return {"lease": box}
        raise Failure("not_found", f"no box {params['id']}")

    def list(self, call, params):
        return {"leases": self.boxes(), "complete": True}

    def stop(self, call, params):
        expected, lease = params["expected"], params["lease"]
        box = self.box(lease["cloudId"])
        if box is None:
            shutil.rmtree(self.root / pathlib.Path(lease["cloudId"]).name, ignore_errors=True)
            return {"outcome": "already_gone"}
        if box["leaseId"] != expected["leaseId"] or box["cloudId"] != expected.get("cloudId", box["cloudId"]):
            raise Failure("precondition", f"box {box['cloudId']} belongs to lease {box['leaseId']}")
        shutil.rmtree(self.root / box["cloudId"])
        return {"outcome": "released"}

    def start(self, call, params):
        if (box := self.box(params["lease"]["cloudId"])) is None:
            raise Failure("not_found", "the box is gone")
        work = self.root / box["cloudId"] / "work"
        if tree := params.get("workspace"):
            shutil.rmtree(work)
            with tarfile.open(tree) as tar:
                tar.extraction_filter = getattr(tarfile, "tar_filter", None)  # the kernel packed it
                tar.extractall(work)
        if greeting := self.config.get("greeting"):
            call.output("stdout", f"{greeting}\n".encode())
        call.check()
        try:
            process = subprocess.Popen(params["command"], cwd=work, stdin=subprocess.DEVNULL, start_new_session=True,
                                       env={"PATH": self.user["path"], "HOME": self.user["home"], **params.get("env", {})},
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except FileNotFoundError:
            call.output("stderr", f"{params['command'][0]}: not found\n".encode())
            return {"exitCode": 127}
        return self.follow(call, process)

    def follow(self, call, process):
        """Sends what a process prints, and how it ended. A cancelled call ends the process."""
        def relay(ch, pipe):
            while data := os.read(pipe.fileno(), 1 << 16):
                if not call.stopped.is_set():
                    call.output(ch, data)

        relays = [threading.Thread(target=relay, args=pair, daemon=True)
                  for pair in (("stdout", process.stdout), ("stderr", process.stderr))]
        for thread in relays:
            thread.start()
        while process.poll() is None:
            if call.stopped.wait(0.05):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise Failure("cancelled", "the command was stopped", "rolled-back")
        for thread in relays:
            thread.join()
        if process.returncode < 0:
            return {"exitCode": 128 - process.returncode, "signal": signal.Signals(-process.returncode).name[3:]}
        return {"exitCode": process.returncode}


serve(ToyPlatform)
