// Everything a crabbox provider in JavaScript needs, in one file: copy it beside your program.
//
// Extend `SshLease` or `DelegatedRun`, throw `Failure` for what goes wrong, end with `serve(YourProvider)`. Every method
// gets a `Call`, its way to the kernel, and the params of docs/protocol.md. Node.js 20 or newer, no packages. Write to
// `console.error` only: standard output is the wire, and `console.log` is turned away from it.
import fs from "node:fs";
import readline from "node:readline";

const KINDS = { invalid_config: 1001, invalid_request: 1002, unsupported: 1003, auth: 1010, permission: 1011,
  billing: 1012, not_found: 1020, conflict: 1021, precondition: 1022, expired: 1023, capacity: 1030, quota: 1031,
  rate_limited: 1032, transient: 1040, timeout: 1041, bootstrap: 1042, cancelled: 1050, grant_denied: 1060,
  internal: 1099 };
const CHUNK = 48 * 1024, GRACE_MS = 10_000, LONGEST = 1 << 20;

/** A failure with a kind of the table above; `outcome` says whether something may be left behind. */
export class Failure extends Error {
  constructor(kind, message, outcome = "not-started", data = {}) {
    super(message);
    this.kind = kind;
    const text = String(message).split(/\s+/).join(" ").slice(0, 500);
    this.error = { code: KINDS[kind] ?? 1099, message: text, data: { kind, outcome, ...data } };
  }
}

/** One open call. Callbacks wait for the kernel's answer and end early when the call is cancelled. */
export class Call {
  constructor(session, id, ctx = {}) {
    Object.assign(this, { session, id, idem: ctx.idem, dryRun: ctx.dryRun ?? false });
    this.deadline = Date.now() + (ctx.deadlineMs ?? 60_000);
    this.graceMs = ctx.graceMs ?? 0;
    this.abort = new AbortController();
    this.credit = session.window;
    this.offsets = { stdout: 0, stderr: 0 };
    this.waiting = [];
  }

  get stopped() { return this.abort.signal.aborted; }

  cancel(graceMs) {
    Object.assign(this, { deadline: Date.now(), graceMs });
    this.abort.abort();
    this.grant(0);
  }

  grant(bytes) {
    this.credit += bytes;
    this.waiting.splice(0).forEach((wake) => wake());
  }

  /** Call it between steps: it ends the work once the kernel wants it to. */
  check() { if (this.stopped || Date.now() >= this.deadline) throw new Failure("cancelled", "cancelled", "uncertain"); }

  /** Any callback of docs/protocol.md by name. */
  ask(method, params = {}) {
    return this.session.ask(method, { call: this.id, ...params }, this.deadline + this.graceMs - Date.now());
  }

  tell(event, params) { this.session.send({ method: `event/${event}`, params: { call: this.id, ...params } }); }

  /** Right after something was created: resolves once the kernel has it on disk. */
  record(kind, cloudId, more = {}) {
    return this.ask("host/resource.record", { resource: { kind, cloudId, billable: false, ...more } });
  }

  forget(kind, cloudId) { return this.ask("host/resource.forget", { resource: { kind, cloudId } }); }

  /** True when the time passed, false when the call was cancelled meanwhile. */
  async sleep(ms) { return !this.stopped && (await this.ask("host/sleep", { ms })).woken === "time"; }

  /** A request made by the kernel, which holds the credentials: `{ auth: { bearer: "token" } }`. */
  http(method, url, more = {}) { return this.ask("host/http", { method, url, ...more }); }

  /** Bytes of a delegated command; waits while the kernel has no room. */
  async output(ch, data) {
    for (let at = 0; at < data.length; at += CHUNK) {
      const part = data.subarray(at, at + CHUNK);
      while (this.credit <= 0 && !this.stopped) await new Promise((wake) => this.waiting.push(wake));
      this.check();
      this.credit -= part.length;
      this.tell("output", { ch, off: this.offsets[ch], b64: part.toString("base64") });
      this.offsets[ch] += part.length;
    }
  }
}

class Provider {
  static idempotentAcquire = false;
  constructor(config, user) { Object.assign(this, { config, user }); }
  validate() { return {}; }
  doctor() { return { checks: [] }; }
}

/** Override acquire, resolve, list and release: params and results as in docs/protocol.md. */
export class SshLease extends Provider {
  static kind = "ssh-lease";
  static methods = ["acquire", "resolve", "list", "release", "touch"].map((name) => [`lease.${name}`, name]);
  touch(_call, params) { return { lease: params.lease }; }
}

/** Override warmup, start, list, status and stop: params and results as in docs/protocol.md. */
export class DelegatedRun extends Provider {
  static kind = "delegated-run";
  static methods = ["warmup", "start", "list", "status", "stop"].map((name) => [`run.${name}`, name]);
}

class Session {
  constructor(provider, manifest) {
    Object.assign(this, { provider, manifest, window: 1 << 20, calls: new Map(), asked: new Map(), last: 0 });
    this.methods = new Map([["config.validate", "validate"], ["doctor", "doctor"], ...provider.methods]);
  }

  send(frame) { fs.writeSync(1, JSON.stringify({ jsonrpc: "2.0", ...frame }) + "\n"); }

  ask(method, params, ms) {
    const id = `p${++this.last}`;
    return new Promise((resolve, reject) => {
      const late = () => reject(new Failure("timeout", `the kernel did not answer ${method}`, "uncertain"));
      this.asked.set(id, { resolve, reject, timer: setTimeout(late, Math.max(0, Math.min(ms, 2 ** 31 - 1))) });
      this.send({ id, method, params });
    });
  }

  answered({ id, result, error }) {
    const asked = this.asked.get(id);
    this.asked.delete(id);
    clearTimeout(asked?.timer);
    if (error) asked?.reject(new Failure(error.data?.kind ?? "internal", error.message, "uncertain"));
    else asked?.resolve(result);
  }

  initialize({ protocols, instance, limits }) {
    if (!protocols.includes("1.0")) {
      const message = `no common protocol: the kernel offers ${protocols.join(", ")}, the plugin speaks 1.0`;
      throw new Failure("unsupported", message, "not-started", { hint: "update the older of the two" });
    }
    const { provider, manifest } = this;
    if (manifest.provider !== instance.provider) throw new Failure("unsupported", `no provider ${instance.provider}`);
    this.window = limits?.outputWindow ?? this.window;
    this.instance = new provider(instance.config ?? {}, instance.user ?? {});
    return { protocol: "1.0", plugin: { id: manifest.id, version: manifest.version }, methods: [...this.methods.keys()],
      provider: { name: manifest.provider, kind: provider.kind, features: manifest.features ?? [],
        idempotentAcquire: provider.idempotentAcquire } };
  }

  async work(id, act) {
    let answer;
    try {
      answer = { result: await act() };
    } catch (error) { // a bug of the provider costs one call
      const failure = error instanceof Failure ? error : new Failure("internal", error?.stack ?? error, "uncertain");
      answer = { error: failure.error };
    }
    this.calls.delete(id);
    this.send({ id, ...answer });
  }

  request({ id, method, params }) {
    const refuse = (code, message) => this.send({ id, error: { code, message } });
    if (this.instance && (method === "ping" || method === "shutdown")) {
      this.down ||= method === "shutdown";
      return this.send({ id, result: {} });
    }
    if (method === "initialize" && !this.instance) return this.work(id, () => this.initialize(params));
    if (!this.instance || this.down || method === "initialize") {
      return refuse(-32600, this.down ? "the session is shut down" : "initialize comes first, and once");
    }
    if (!this.methods.has(method)) return refuse(-32601, `no method ${method}`);
    const call = new Call(this, id, params.ctx);
    this.calls.set(id, call);
    return this.work(id, () => (call.check(), this.instance[this.methods.get(method)](call, params)));
  }

  take(line) {
    if (line.length > LONGEST) process.exit(1);
    const frame = JSON.parse(line); // what is no frame ends the plugin
    if (frame.method && frame.id !== undefined) this.request(frame);
    else if (frame.method === "$/cancel") this.calls.get(frame.params.id)?.cancel(frame.params.graceMs ?? 0);
    else if (frame.method === "$/credit") this.calls.get(frame.params.call)?.grant(frame.params.bytes);
    else if (!frame.method) this.answered(frame);
  }

  end() {
    for (const call of this.calls.values()) call.cancel(GRACE_MS);
    for (const asked of this.asked.values()) asked.reject(new Failure("cancelled", "the kernel is gone", "uncertain"));
    const until = Date.now() + GRACE_MS;
    setInterval(() => (this.calls.size === 0 || Date.now() > until) && process.exit(0), 20);
  }
}

/** The main function of a plugin. `manifest` repeats crabbox-plugin.toml: `{ id, version, provider, features }`. */
export function serve(provider, manifest) {
  if (process.env.CRABBOX_PLUGIN !== "1") {
    console.error("this is a crabbox plugin; crabbox starts it by itself");
    process.exit(64);
  }
  console.log = console.info = console.error;
  const session = new Session(provider, manifest);
  const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity });
  lines.on("line", (line) => line.trim() && session.take(line)).on("close", () => session.end());
}
