//! Small components written by hand, and the runner that runs them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crabbox_plugin_sdk::testkit::replay_command;
use crabbox_tests::{binaries, binary};
use serde_json::json;
use tempfile::TempDir;

/// What a guest does when it is called. The params lie at `$ptr`, `$len`; the answer is left at 1024.
pub(crate) struct Guest {
    /// Interface and function that it imports as `$ask`, if any; it takes params and answers like a method.
    pub(crate) asks: Option<(&'static str, &'static str)>,
    /// Whether it imports `control.cancelled` as `$cancelled`, which leaves an option at its argument.
    pub(crate) looks: bool,
    /// Whether it imports `output.write` as `$write`, which leaves a result at its last argument.
    pub(crate) prints: bool,
    /// Instructions of `handle`.
    pub(crate) body: &'static str,
}

/// Answers what it was asked.
pub(crate) const ECHO: Guest = Guest {
    asks: None,
    looks: false,
    prints: false,
    body: "(i32.store8 (i32.const 1024) (i32.const 0))
           (i32.store (i32.const 1028) (local.get $ptr)) (i32.store (i32.const 1032) (local.get $len))",
};

/// Asks the host, and answers what that answered.
pub(crate) fn asking(interface: &'static str, function: &'static str) -> Guest {
    let body = "(call $ask (local.get $ptr) (local.get $len) (i32.const 1024))";
    Guest { asks: Some((interface, function)), looks: false, prints: false, body }
}

/// Answers like [`ECHO`] unless the first letter of the method is `d`: then it runs these instructions before.
pub(crate) fn doctored(instructions: &str) -> Guest {
    let body = format!(
        "(if (i32.eq (i32.load8_u (local.get $method)) (i32.const 100)) (then {instructions})) {}",
        ECHO.body
    );
    Guest { body: body.leak(), ..ECHO }
}

impl Guest {
    /// The component.
    pub(crate) fn wasm(&self) -> Vec<u8> {
        let methods = ["doctor", "lease.list", "lease.release"];
        let hello = json!({
            "protocol": "1.0", "plugin": {"id": "example.dev/toy", "version": "1.0.0"},
            "provider": {"name": "toy", "kind": "ssh-lease"}, "methods": methods,
        })
        .to_string();
        let (outside, with, imports) = self.imports();
        let text = format!(
            r#"(component
              (import "crabbox:plugin/types@1.0.0" (instance $types
                (type $e (record (field "code" s32) (field "message" string) (field "data" (option string))))
                (export "rpc-error" (type (eq $e)))
                (type $c (enum "stdout" "stderr"))
                (export "channel" (type (eq $c)))))
              (alias export $types "rpc-error" (type $rpc-error))
              (alias export $types "channel" (type $channel))
              (core module $Libc
                (memory (export "memory") 2)
                (global $next (mut i32) (i32.const 8192))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                  (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                  (global.set $next (i32.add (local.get $at) (local.get 3)))
                  (if (i32.gt_u (global.get $next) (i32.const 120000)) (then (global.set $next (i32.const 8192))))
                  (local.get $at)))
              (core instance $libc (instantiate $Libc))
              {outside}
              (core module $Main
                (import "libc" "memory" (memory 1)) {imports}
                (global $count (mut i32) (i32.const 0))
                (global $off (mut i64) (i64.const 0))
                (data (i32.const 2048) {hello:?})
                (data (i32.const 4096) "{{\"n\":0}}")
                (func (export "initialize") (param i32 i32) (result i32)
                  (i32.store8 (i32.const 1024) (i32.const 0))
                  (i32.store (i32.const 1028) (i32.const 2048)) (i32.store (i32.const 1032) (i32.const {length}))
                  (i32.const 1024))
                (func $handle (export "handle") (param $method i32) (param i32) (param $ptr i32) (param $len i32) (result i32)
                  {body}
                  (i32.const 1024)))
              (core instance $main (instantiate $Main
                (with "libc" (instance $libc)) {with}))
              (func $initialize (param "params" string) (result (result string (error $rpc-error)))
                (canon lift (core func $main "initialize") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
              (func $handle (param "method" string) (param "params" string) (result (result string (error $rpc-error)))
                (canon lift (core func $main "handle") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
              (export "initialize" (func $initialize))
              (export "handle" (func $handle)))"#,
            length = hello.len(),
            body = self.body,
        );
        wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    /// Its imports: what the component says, what the module is given, and what the module says.
    fn imports(&self) -> (String, String, String) {
        let asks = self.asks.map(|(interface, function)| {
            format!(
                r#"(import "crabbox:plugin/{interface}@1.0.0" (instance $host
                     (alias outer 1 $rpc-error (type $e)) (export "rpc-error" (type $e' (eq $e)))
                     (export "{function}" (func (param "params" string) (result (result string (error $e')))))))
                   (core func $ask (canon lower (func $host "{function}")
                     (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))"#
            )
        });
        let looks = self.looks.then_some(
            r#"(import "crabbox:plugin/control@1.0.0" (instance $control
                 (export "cancelled" (func (result (option u64))))))
               (core func $cancelled (canon lower (func $control "cancelled") (memory (core memory $libc "memory"))))"#,
        );
        let prints = self.prints.then_some(
            r#"(import "crabbox:plugin/output@1.0.0" (instance $output
                 (alias outer 1 $rpc-error (type $e)) (export "rpc-error" (type $e' (eq $e)))
                 (alias outer 1 $channel (type $c)) (export "channel" (type $c' (eq $c)))
                 (export "write" (func (param "ch" $c') (param "offset" u64) (param "bytes" (list u8))
                   (result (result (error $e')))))))
               (core func $write (canon lower (func $output "write")
                 (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))"#,
        );
        let rows = [
            ("ask", "i32 i32 i32", asks),
            ("cancelled", "i32", looks.map(str::to_owned)),
            ("write", "i32 i64 i32 i32 i32", prints.map(str::to_owned)),
        ];
        let given = rows.iter().filter(|row| row.2.is_some());
        let outside: String = rows.iter().filter_map(|row| row.2.clone()).collect();
        let (with, imports): (Vec<_>, Vec<_>) = given
            .map(|(name, params, _)| {
                (
                    format!(r#"(export "{name}" (func ${name}))"#),
                    format!(r#"(import "host" "{name}" (func ${name} (param {params})))"#),
                )
            })
            .unzip();
        let with = match with.is_empty() {
            true => String::new(),
            false => format!(r#"(with "host" (instance {}))"#, with.concat()),
        };
        (outside, with, imports.concat())
    }
}

/// A guest's file, and a home of its own for what is compiled.
pub(crate) struct Stage {
    pub(crate) dir: TempDir,
    pub(crate) args: Vec<String>,
}

/// Says hello; every transcript begins with it.
pub(crate) const HELLO: &str = r#"{"d":">","m":{"id":1,"method":"initialize","params":{"protocols":["1.0"],"kernel":{"name":"crabbox","version":"0.1.0"},"instance":{"provider":"toy"}}}}
{"d":"<","match":{"id":1,"result":{"plugin":{"id":"example.dev/toy"}}}}
"#;

impl Stage {
    pub(crate) fn new(guest: &Guest) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("guest.wasm"), guest.wasm()).unwrap();
        Self { dir, args: Vec::new() }
    }

    pub(crate) fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join(".cache/crabbox/wasm")
    }

    /// The runner, as the host would start it.
    pub(crate) fn command(&self) -> Command {
        binary("crabbox-wasm-compile");
        let mut command = Command::new(runner());
        command.env_clear().env("HOME", self.dir.path()).current_dir(self.dir.path());
        command.args(&self.args).arg(self.dir.path().join("guest.wasm"));
        command
    }

    /// Greets the guest, then replays this.
    pub(crate) fn plays(&self, transcript: &str) {
        replay_command(self.command(), &format!("{HELLO}{transcript}"))
            .unwrap_or_else(|e| panic!("{e} (line 3 is the first)"));
    }
}

/// The runner that is tested: this build's, or with `CRABBOX_WASM_BIN` the one in that folder.
pub(crate) fn runner() -> PathBuf {
    match std::env::var_os("CRABBOX_WASM_BIN") {
        Some(folder) => PathBuf::from(folder).join("crabbox-wasm-runner"),
        None => binary("crabbox-wasm-runner"),
    }
}

/// A call's params with bounds.
pub(crate) fn call(id: u64, method: &str, deadline: u64, more: &str) -> String {
    format!(
        r#"{{"d":">","m":{{"id":{id},"method":"{method}","params":{{"ctx":{{"deadlineMs":{deadline},"graceMs":100,"idem":"k"}}{more}}}}}}}"#
    ) + "\n"
}

/// Where our own provider's component is, when it could be built; whoever turned it off said so.
pub(crate) fn our_component(provider: &str) -> Option<PathBuf> {
    if crabbox_tests::gone_without("CRABBOX_TEST_WASM", "a component of ours") {
        return None;
    }
    let path = binaries().join(format!("crabbox-provider-{provider}.wasm"));
    assert!(path.is_file(), "{} is missing: run ./build-component.sh debug", path.display());
    Some(path)
}

/// A cache that all tests share: compiling is slow in a build for debugging.
pub(crate) fn shared_cache() -> PathBuf {
    binaries().join("test-cache")
}

/// The hand-written WASI command, as a component and as a module of the generation before, when it could be built.
pub(crate) fn command_guests() -> Option<[PathBuf; 2]> {
    our_component("ssh")?;
    Some(["wasi-stdio-guest.wasm", "wasi-module-guest.wasm"].map(|name| binaries().join(name)))
}
