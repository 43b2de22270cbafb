#!/usr/bin/env node
// A provider that runs commands in folders of this machine. Replace what touches folders by your platform's calls.
import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

import { DelegatedRun, Failure, serve } from "./crabbox-plugin.mjs";

class ToyPlatform extends DelegatedRun {
  static idempotentAcquire = true;

  constructor(config, user) {
    super(config, user);
    this.root = path.join(config.root || process.env.CRABBOX_STATE_DIR, "boxes");
  }

  // One folder is one box; `box.json` in it is its label.

  box(cloudId) {
    const label = path.join(this.root, cloudId, "box.json");
    return !cloudId.includes("/") && fs.existsSync(label) ? JSON.parse(fs.readFileSync(label)) : undefined;
  }

  boxes() {
    const names = fs.existsSync(this.root) ? fs.readdirSync(this.root) : [];
    return names.map((name) => this.box(name)).filter(Boolean);
  }

  async warmup(call, { desired, labels = {} }) {
    const lease = { ...desired, cloudId: desired.leaseId, status: "ready", serverType: "folder", labels };
    const folder = path.join(this.root, lease.cloudId);
    fs.mkdirSync(path.join(folder, "work"), { recursive: true });
    await call.record("folder", lease.cloudId); // before anything else: from now on it can be found again
    fs.writeFileSync(path.join(folder, "box.json"), JSON.stringify(lease));
    return { lease };
  }

  status(_call, { id }) {
    const lease = this.boxes().find((box) => [box.leaseId, box.slug, box.name, box.cloudId].includes(id));
    if (!lease) throw new Failure("not_found", `no box ${id}`);
    return { lease };
  }

  list() { return { leases: this.boxes(), complete: true }; }

  stop(_call, { expected, lease }) {
    const box = this.box(lease.cloudId);
    const folder = path.join(this.root, path.basename(lease.cloudId));
    if (box && (box.leaseId !== expected.leaseId || box.cloudId !== (expected.cloudId ?? box.cloudId))) {
      throw new Failure("precondition", `box ${box.cloudId} belongs to lease ${box.leaseId}`);
    }
    fs.rmSync(folder, { recursive: true, force: true });
    return { outcome: box ? "released" : "already_gone" };
  }

  async start(call, { lease, workspace, command, env = {} }) {
    const box = this.box(lease.cloudId);
    if (!box) throw new Failure("not_found", "the box is gone");
    const work = path.join(this.root, box.cloudId, "work");
    if (workspace) {
      fs.rmSync(work, { recursive: true });
      fs.mkdirSync(work);
      execFileSync("tar", ["-xf", workspace, "-C", work]);
    }
    if (this.config.greeting) await call.output("stdout", Buffer.from(`${this.config.greeting}\n`));
    call.check();
    const child = spawn(command[0], command.slice(1), { cwd: work, detached: true, stdio: ["ignore", "pipe", "pipe"],
      env: { PATH: this.user.path, HOME: this.user.home, ...env } });
    return this.follow(call, child, command[0]);
  }

  /** Sends what a process prints, and how it ended. A cancelled call ends the process. */
  async follow(call, child, name) {
    const missing = new Promise((resolve) => child.on("error", resolve));
    const ended = new Promise((resolve) => child.on("close", (code, signal) => resolve({ code, signal })));
    call.abort.signal.addEventListener("abort", () => child.pid && process.kill(-child.pid, "SIGKILL"));
    const relay = async (ch, pipe) => { for await (const data of pipe) await call.output(ch, data); };
    const relays = Promise.allSettled([relay("stdout", child.stdout), relay("stderr", child.stderr)]);
    const end = await Promise.race([ended, missing]);
    if (end instanceof Error) {
      await call.output("stderr", Buffer.from(`${name}: not found\n`));
      return { exitCode: 127 };
    }
    await relays;
    if (call.stopped) throw new Failure("cancelled", "the command was stopped", "rolled-back");
    if (!end.signal) return { exitCode: end.code };
    return { exitCode: 128 + os.constants.signals[end.signal], signal: end.signal.slice(3) };
  }
}

serve(ToyPlatform, { id: "example.dev/toy-platform", version: "0.1.0", provider: "toy-platform" });
