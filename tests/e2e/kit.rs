//! `crabbox plugin test`: good plugins pass, and each mistake is caught by the check that is there for it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crabbox_tests::{Ended, Kit, Room, plugin_folder};
use serde_json::Value;

fn test(room: &Room, folder: &Path, more: &[&str]) -> Ended {
    let folder = folder.display().to_string();
    let words = ["plugin", "test", "--json", &folder].into_iter().chain(more.iter().copied());
    room.crabbox(room.path(), words).limit(Duration::from_secs(180)).run()
}

/// The ids of the checks that failed.
fn failed(ended: &Ended) -> Vec<String> {
    let checks = ended.json()["providers"][0]["checks"].clone();
    let checks: Vec<Value> = serde_json::from_value(checks).unwrap();
    let bad = checks.iter().filter(|check| check["verdict"] == "failed");
    bad.map(|check| check["id"].as_str().unwrap().to_owned()).collect()
}

fn passes(folder: &Path, room: &Room, more: &[&str]) {
    let patient = ["--patience", "10"].into_iter().chain(more.iter().copied());
    let ended = test(room, folder, &patient.collect::<Vec<_>>()).expect(0);
    assert_eq!(failed(&ended), [""; 0], "{ended}");
    let passed = ended.json()["providers"][0]["passed"].as_u64().unwrap();
    assert!(passed >= 35, "only {passed} checks passed");
}

#[test]
fn our_own_providers_pass() {
    let room = Room::new();
    passes(&plugin_folder("local"), &room, &[]);
    let ended =
        test(&room, &plugin_folder("ssh"), &["--patience", "10", "--set", "host=127.0.0.1"])
            .expect(0);
    assert_eq!(failed(&ended), [""; 0], "{ended}");
}

#[test]
fn our_clouds_pass_as_programs_and_components_and_leave_nothing_after_a_crash_at_any_answer() {
    for provider in ["aws", "hetzner"] {
        Kit { provider, least: 55, ..Kit::default() }.passes_on_both_runtimes();
    }
    let set = ["subscription-id", "tenant-id", "client-id"];
    let set = set.map(|name| format!("{name}=00000001-0000-4000-8000-000000000000"));
    let set: Vec<_> = set.iter().map(String::as_str).collect();
    // Two secrets are asked for, and one of them is enough: the other is never used.
    let azure = Kit { provider: "azure", set: &set, limits: &["M5"], least: 50, ..Kit::default() };
    azure.passes_on_both_runtimes();
}

#[test]
fn the_example_of_forty_lines_fails_only_what_its_page_says() {
    let room = Room::new();
    let folder = plugin_folder("example-python");
    let text = fs::read_to_string(folder.join("provider.py")).unwrap();
    assert!(text.lines().count() <= 40);
    let ended = test(&room, &folder, &["--patience", "3"]).expect(1);
    let known = ["H3", "H5", "H6", "F7", "L4", "C7", "R7", "R10", "B1", "B2", "B5", "S6"];
    assert_eq!(failed(&ended), known, "{ended}");
    let repo = room.repo("app");
    let words =
        ["run", "-q", "--provider", "example-python", "--", "sh", "-c", "cat hello.txt; exit 3"];
    let ran = room.crabbox(&repo, words).run().expect(3);
    assert_eq!(ran.out(), "hello\n");
}

/// What is changed, and the checks that must see it; others may see it too.
type Mistake = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// Mistakes in the python template.
const MISTAKES: &[Mistake] = &[
    (
        "provider.py",
        "serve(ToyPlatform)",
        "print('hello', flush=True)\nserve(ToyPlatform)",
        &["H1"],
    ),
    ("provider.py", "call.record(\"folder\", lease[\"cloudId\"])", "pass", &["I2", "I8"]),
    ("provider.py", "{**desired, ", "{**desired, \"slug\": \"other\", ", &["I1"]),
    ("provider.py", "box[\"leaseId\"] != expected[\"leaseId\"] or", "False and", &["I6"]),
    (
        "provider.py",
        "return {\"outcome\": \"already_gone\"}",
        "raise Failure(\"not_found\", \"gone\")",
        &["I7"],
    ),
    (
        "provider.py",
        "Failure(\"not_found\", f\"no box",
        "Failure(\"transient\", f\"no box",
        &["I5"],
    ),
    ("provider.py", "{\"leases\": self.boxes(),", "{\"leases\": [],", &["I3"]),
    (
        "provider.py",
        "return {\"exitCode\": process.returncode}",
        "return {\"exitCode\": 0}",
        &["R1"],
    ),
    ("provider.py", "128 - process.returncode", "1", &["R5"]),
    ("provider.py", "(\"stderr\", process.stderr)", "(\"stdout\", process.stderr)", &["R2"]),
    (
        "provider.py",
        "params[\"command\"], cwd",
        "\" \".join(params[\"command\"]), shell=True, cwd",
        &["R4"],
    ),
    ("provider.py", "tar.extractall(work)", "pass", &["R6"]),
    (
        "provider.py",
        "raise Failure(\"cancelled\", \"the command was stopped\", \"rolled-back\")",
        "threading.Event().wait(30)",
        &["R7"],
    ),
    (
        "provider.py",
        "call.record(\"folder\"",
        "call.ask(\"host/secret.reveal\", name=\"x\") and 0\n        call.tell(\"log\", level=\"info\", message=call.ask(\"host/secret.reveal\", name=\"x\")[\"value\"])\n        call.record(\"folder\"",
        &["S1"],
    ),
    (
        "crabbox_plugin.py",
        "off, self.offsets[ch] = self.offsets[ch], self.offsets[ch] + len(part)",
        "off = 0",
        &["R2"],
    ),
    ("crabbox_plugin.py", "while self.credit <= 0 and", "while False and", &["B1"]),
    (
        "crabbox_plugin.py",
        "if method in (\"ping\", \"shutdown\") and self.instance:",
        "if method == \"ping\" and self.calls:\n            return None\n        if method in (\"ping\", \"shutdown\") and self.instance:",
        &["F7"],
    ),
    ("crabbox_plugin.py", "if \"1.0\" not in params[\"protocols\"]:", "if False:", &["H3"]),
    ("crabbox_plugin.py", "os._exit(64)", "os._exit(0)", &["H7"]),
    ("crabbox_plugin.py", "\"code\": -32601", "\"code\": -32000", &["F4"]),
    ("crabbox_plugin.py", "self.down |= method == \"shutdown\"", "pass", &["L4"]),
    ("crabbox_plugin.py", "\"id\": self.manifest[\"id\"]", "\"id\": \"somebody/else\"", &["H1"]),
    (
        "crabbox_plugin.py",
        "[waiting.put(gone) for waiting in list(self.waiting.values())]",
        "time.sleep(4)",
        &["L1", "L2"],
    ),
    ("crabbox_plugin.py", "\"code\": KINDS.get(kind, 1099)", "\"code\": 1", &["I9"]),
    (
        "provider.py",
        "    def warmup(self, call, params):\n",
        "    def warmup(self, call, params):\n        assert set(params[\"request\"]) < {\"target\", \"class\", \"ttlSecs\", \"idleTimeoutSecs\", \"keep\"} | {1}\n",
        &["K1"],
    ),
    (
        "crabbox_plugin.py",
        "        elif method == \"$/cancel\" and",
        "        elif method == \"$/cancel\" and params[\"reason\"] not in (\"user\", \"deadline\"):\n            os._exit(1)\n        elif method == \"$/cancel\" and",
        &["K2"],
    ),
    (
        "provider.py",
        "serve(ToyPlatform)",
        "lock = pathlib.Path(os.environ[\"CRABBOX_STATE_DIR\"], \"lock\")\nlock.open(\"x\")\nserve(ToyPlatform)",
        &["X1"],
    ),
    (
        "provider.py",
        "serve(ToyPlatform)",
        "import time; time.sleep(1.5)\nserve(ToyPlatform)",
        &["P1"],
    ),
    (
        "crabbox_plugin.py",
        "self.down |= method == \"shutdown\"",
        "time.sleep(0.05)\n            self.down |= method == \"shutdown\"",
        &["P2"],
    ),
    (
        "provider.py",
        "serve(ToyPlatform)",
        "hoard = bytearray(b\"x\") * (300 << 20)\nserve(ToyPlatform)",
        &["P3"],
    ),
    (
        "provider.py",
        "call.record(\"folder\", lease[\"cloudId\"])",
        "call.record(\"folder\", lease[\"cloudId\"])\n        if call.stopped.is_set():\n            raise Failure(\"cancelled\", \"stopped\", \"rolled-back\")",
        &["C6"],
    ),
    ("crabbox_plugin.py", "lambda: call.check() or act(", "lambda: act(", &["C7"]),
    (
        "crabbox_plugin.py",
        "call.credit += params[\"bytes\"]",
        "call.credit += params[\"bytes\"] + CHUNK",
        &["B5"],
    ),
    (
        "provider.py",
        "call.output(ch, data)",
        "call.offsets[ch] < 40 << 20 and call.output(ch, data)",
        &["R9"],
    ),
    ("provider.py", "shutil.rmtree(work)", "pass", &["R10"]),
    ("provider.py", "pathlib.Path(lease[\"cloudId\"]).name", "lease[\"cloudId\"]", &["S5"]),
    ("provider.py", "env={\"PATH\"", "env={**os.environ, \"PATH\"", &["S6"]),
    (
        "provider.py",
        "\"status\": \"ready\"",
        "\"status\": \"ready\", \"colour\": \"blue\"",
        &["K3"],
    ),
    ("provider.py", "\"serverType\": \"folder\"", "\"serverType\": 7", &["K4"]),
    (
        "provider.py",
        "serve(ToyPlatform)",
        "def spin():\n    while True:\n        pass\n\nthreading.Thread(target=spin, daemon=True).start()\nserve(ToyPlatform)",
        &["L8"],
    ),
    (
        "crabbox_plugin.py",
        "self.credit -= len(part)",
        "time.sleep(0.008)\n                self.credit -= len(part)",
        &["P4"],
    ),
    ("crabbox-plugin.toml", "license = \"MIT\"", "", &["M4"]),
    ("crabbox-plugin.toml", "path = \"provider.py\"", "path = \"config.schema.json\"", &["M1"]),
];

#[test]
fn each_mistake_is_caught_by_the_check_that_is_there_for_it() {
    let room = Room::new();
    let good = room.template("python", "good");
    catches(&room, &good, MISTAKES, &[]);
}

/// Makes each mistake in a copy of a good plugin; every check that is there for it must see it.
fn catches(room: &Room, good: &Path, mistakes: &[Mistake], more: &[&str]) {
    let mut missed = Vec::new();
    for (at, (file, from, to, checks)) in mistakes.iter().enumerate() {
        let folder = room.at(&format!("bad{at}"));
        copy(good, &folder);
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} does not say {from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let only = checks.join(",");
        let words: Vec<_> = ["--only", &only].into_iter().chain(more.iter().copied()).collect();
        let ended = test(room, &folder, &words);
        let caught = failed(&ended);
        for check in *checks {
            if !caught.iter().any(|id| id == check) {
                missed.push(format!("{check} did not see {from:?} → {to:?}: {ended}"));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let files = fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_file());
    for entry in files {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_failure_says_what_was_sent_what_was_expected_and_where_it_is_written() {
    let room = Room::new();
    let folder = room.template("python", "rack");
    let program = folder.join("provider.py");
    let text = fs::read_to_string(&program).unwrap();
    fs::write(&program, text.replace("\"exitCode\": process.returncode", "\"exitCode\": 0"))
        .unwrap();
    let report = room.at("report.xml");
    let words = ["plugin", "test", "rack", "--only", "R1,H7", "--junit", "report.xml"];
    let ended = room.crabbox(room.path(), words).run().expect(1);
    let out = ended.out();
    for words in [
        "FAIL  R1  exit statuses pass through",
        "sent:     exit 1",
        "expected: exitCode 1",
        "docs/protocol.md, \"run.start: a delegated command\"",
    ] {
        assert!(out.contains(words), "no {words:?} in {out}");
    }
    let junit = fs::read_to_string(report).unwrap();
    assert!(junit.contains("tests=\"2\" failures=\"1\""), "{junit}");
    let nothing = room.crabbox(room.path(), ["plugin", "test", "rack", "--only", "R1,typo"]).run();
    let _ = nothing.expect(2).says(&["--only typo is neither a check nor the letter of some"]);
    let other = ["plugin", "test", "rack", "--profile", "ssh-lease", "--only", "R1"];
    let _ = room.crabbox(room.path(), other).run().expect(4).says(&["no such provider"]);
    let known =
        ["plugin", "test", "rack", "--profile", "delegated", "--only", "R1", "--expect", "R1"];
    let ended = room.crabbox(room.path(), known).run();
    assert_eq!(ended.code, 0, "{ended}");
}

/// Mistakes in a provider of a cloud, which only recorded exchanges can show.
const CLOUD_MISTAKES: &[Mistake] = &[
    (
        "provider.py",
        "        if not (lease := self.find(call, params[\"id\"])):",
        "        known = [r[\"cloudId\"] for r in params.get(\"resources\", [])]\n        lease = self.find(call, params[\"id\"])\n        if not lease or (params[\"purpose\"] == \"reconcile\" and lease[\"cloudId\"] not in known):",
        &["I10"],
    ),
    ("provider.py", "401: \"auth\", ", "", &["E1"]),
    ("provider.py", "409: \"conflict\"", "409: \"transient\"", &["E2"]),
    ("provider.py", "\"retryAfterMs\": int(wait) * 1000", "\"retryAfterMs\": int(wait)", &["E3"]),
    ("provider.py", "\"transient\" if status >= 500 else", "", &["E4"]),
    (
        "crabbox_plugin.py",
        "raise Failure(error.get(\"data\", {}).get(\"kind\", \"internal\"), error[\"message\"], \"uncertain\")",
        "raise Failure(\"internal\", error[\"message\"], \"uncertain\")",
        &["E5", "S3"],
    ),
    ("provider.py", "the answer is no JSON", "{answer}", &["E6"]),
    (
        "provider.py",
        "        return self.api(call, \"GET\", \"/servers\")[\"servers\"]",
        "        try:\n            return self.api(call, \"GET\", \"/servers\")[\"servers\"]\n        except Failure:\n            return []",
        &["S3", "E1", "E4"],
    ),
    ("provider.py", "if call.dry_run:", "if False:", &["S4"]),
    (
        "provider.py",
        "    def doctor(self, call, params):\n",
        "    def doctor(self, call, params):\n        self.api(call, \"POST\", \"/servers\", body={\"json\": {\"name\": 1, \"labels\": 1, \"key\": 1}})\n",
        &["S2"],
    ),
    ("provider.py", "\"host\": \"192", "\"host\": \"-oProxyCommand=192", &["S7"]),
    (
        "provider.py",
        "labels = params[\"labels\"]\n",
        "labels = params[\"labels\"]\n        import pathlib\n        (pathlib.Path.home() / \"trace\").touch()\n",
        &["L7"],
    ),
    ("crabbox-plugin.toml", "exec = [\"toyctl\"]", "exec = [\"toyctl\", \"sh\"]", &["M5"]),
    (
        "crabbox-plugin.toml",
        "origin = \"https://api.toy.example.dev\"",
        "origin = \"https://other.toy.example.dev\"",
        &["I1"],
    ),
];

#[test]
fn a_provider_of_a_cloud_is_tested_with_recorded_exchanges_and_killed_after_each_of_them() {
    let room = Room::new();
    let cloud = room.template("python", "cloud");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/toycloud");
    copy(&fixture, &cloud);
    let tape = ["--cassette", "cloud/cassette.jsonl"];
    passes(&cloud, &room, &tape);
    let ended = test(&room, &cloud, &["--only", "I10,E,S3,S4,M5", "--cassette", "cloud"]).expect(0);
    let [passed, skipped] =
        ["passed", "skipped"].map(|count| ended.json()["providers"][0][count].as_u64().unwrap());
    assert_eq!((passed, skipped), (10, 0), "{ended}");
    catches(&room, &cloud, CLOUD_MISTAKES, &tape);
    let ended = test(&room, &cloud, &["--cassette", "cloud/provider.py"]).expect(2);
    assert!(ended.err().contains("is no cassette"), "{ended}");
}
