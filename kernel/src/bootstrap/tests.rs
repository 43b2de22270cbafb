//! What a machine is told, read as cloud-init reads it; and its scripts, run for real in a folder.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::*;

fn made(user: &str, root: Option<&str>) -> Result<Bootstrap> {
    with(user, root, &[])
}

fn with(user: &str, root: Option<&str>, features: &[&str]) -> Result<Bootstrap> {
    let host_key = HostKey {
        private: format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
            "x".repeat(330)
        ),
        public: "ssh-ed25519 BBBB crabbox cbx_0123456789ab".to_owned(),
    };
    linux(&Recipe {
        user,
        ports: &[2222, 22],
        work_root: root,
        authorized_key: "ssh-ed25519 AAAA crabbox cbx_0123456789ab",
        host_key: &host_key,
        features: &features.iter().map(|&feature| feature.to_owned()).collect::<Vec<_>>(),
        ends_at_ms: 1_780_000_000_000,
    })
}

fn document(made: &Bootstrap) -> Value {
    let text = made.user_data.strip_prefix("#cloud-config\n").expect("cloud-init's first line");
    serde_json::from_str(text).expect("JSON, which is YAML")
}

fn content<'a>(document: &'a Value, path: &str) -> &'a str {
    let files = document["write_files"].as_array().unwrap();
    files.iter().find(|file| file["path"] == path).unwrap()["content"].as_str().unwrap()
}

#[test]
fn the_user_data_says_who_may_log_in_where_and_what_the_machine_will_show() {
    let made = made("crabbox", None).unwrap();
    let document = document(&made);
    let user = &document["users"][0];
    assert_eq!(user["ssh_authorized_keys"][0], "ssh-ed25519 AAAA crabbox cbx_0123456789ab");
    assert_eq!((&user["name"], &user["lock_passwd"]), (&"crabbox".into(), &true.into()));
    assert_eq!(document["ssh_keys"]["ed25519_public"], made.host_keys[0]);
    assert_eq!(document["ssh_pwauth"], false);
    let sshd = content(&document, "/etc/ssh/sshd_config.d/01-crabbox.conf");
    assert!(sshd.starts_with("Port 2222\nPort 22\nPasswordAuthentication no\n"), "{sshd}");
    let timer = content(&document, "/etc/systemd/system/crabbox-expiry.timer");
    assert!(timer.contains("OnCalendar=2026-05-28 20:26:40 UTC\n"), "{timer}");
    assert!(timer.contains("Persistent=true\n"), "{timer}");
    let endpoint = made.endpoint("192.0.2.7");
    assert_eq!((endpoint.port, &endpoint.fallback_ports[..]), (2222, &[22][..]));
}

/// What cloud-init's own documents name, as far as it is used here. A misspelt key would be ignored on the machine.
#[test]
fn every_key_is_one_that_cloud_init_documents() {
    const TOP: &[&str] = &[
        "package_update",
        "package_upgrade",
        "ssh_pwauth",
        "disable_root",
        "users",
        "ssh_keys",
        "write_files",
        "runcmd",
    ];
    const USER: &[&str] = &["name", "shell", "lock_passwd", "sudo", "ssh_authorized_keys"];
    const FILE: &[&str] = &["path", "permissions", "content"];
    let document = document(&made("crabbox", None).unwrap());
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert!(keys(&document).iter().all(|key| TOP.contains(&&**key)), "{document}");
    assert!(keys(&document["users"][0]).iter().all(|key| USER.contains(&&**key)));
    assert!(document["write_files"].as_array().unwrap().iter().all(|file| {
        keys(file).iter().all(|key| FILE.contains(&&**key)) && file["permissions"].is_string()
    }));
    assert_eq!(keys(&document["ssh_keys"]), ["ed25519_private", "ed25519_public"]);
    assert!(document["runcmd"][0].as_array().unwrap().iter().all(Value::is_string));
}

#[test]
fn there_is_room_to_spare_in_the_narrowest_cloud() {
    let made = made("crabbox", Some(&format!("/{}", "long".repeat(60)))).unwrap();
    assert!(made.user_data.len() < MOST / 2, "{}", made.user_data.len());
    let root = format!("/{}", "long".repeat(60));
    let features = PARTS.iter().map(|(word, ..)| *word).collect::<Vec<_>>();
    let all = with("crabbox", Some(&root), &features).unwrap().user_data.len();
    assert!(all < MOST * 7 / 8, "{all}");
}

#[test]
fn what_the_machine_would_read_as_something_else_is_refused() {
    for (user, root) in [
        ("Crabbox", None),
        ("-x", None),
        ("a b", None),
        ("", None),
        ("crabbox", Some("work")),
        ("crabbox", Some("/work/../etc")),
        ("crabbox", Some("/wo\nrk")),
    ] {
        assert_eq!(made(user, root).unwrap_err().code, ErrorCode::Config, "{user:?} {root:?}");
    }
}

/// A machine in a folder: its paths lead there, and its system's own programs are replaced by ones that note their call.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new(lacks: &[&str]) -> Self {
        Self::asked_for(lacks, &[])
    }

    fn asked_for(lacks: &[&str], features: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = Self { dir };
        fs::create_dir(machine.dir.path().join("bin")).unwrap();
        let me = String::from_utf8(machine.host("id", &["-un"]).stdout).unwrap();
        let root = machine.dir.path().join("work");
        let made = with(me.trim(), Some(root.to_str().unwrap()), features).unwrap();
        let document = document(&made);
        let mut own =
            vec![(READY, "crabbox-ready".to_owned()), (SETUP, "crabbox-setup".to_owned())];
        if features.contains(&TAILSCALE) {
            own.push((JOIN, "crabbox-tailnet".to_owned()));
        }
        let parts = features.iter().map(|name| (format!("{PARTS_FOLDER}/{name}.sh"), name));
        let parts: Vec<_> = parts.map(|(path, name)| (path, format!("../lib/{name}.sh"))).collect();
        let parts = parts.iter().map(|(path, name)| (&**path, name.clone()));
        fs::create_dir(machine.dir.path().join("lib")).unwrap();
        for (path, name) in own.into_iter().chain(parts) {
            machine.program(&name, &machine.here(content(&document, path)));
        }
        machine.program(
            "systemctl",
            "#!/bin/sh\necho \"$*\" >>\"$LOG\"\n[ \"$1 $2\" != 'is-active --quiet' ]\n",
        );
        machine.program("sleep", "#!/bin/sh\n");
        for tool in [
            "sh", "id", "install", "mkdir", "touch", "tail", "cat", "timeout", "dirname", "chmod",
            "rm", "grep", "head", "base64", "chown", "mktemp",
        ] {
            let place = machine.host("sh", &["-c", &format!("command -v {tool}")]);
            let place = String::from_utf8(place.stdout).unwrap();
            std::os::unix::fs::symlink(place.trim(), machine.dir.path().join("bin").join(tool))
                .unwrap();
        }
        for tool in ["git", "rsync", "curl", "jq"].iter().filter(|tool| !lacks.contains(tool)) {
            machine.program(tool, "#!/bin/sh\n");
        }
        machine
    }

    /// A text of the machine's with its places in the folder.
    fn here(&self, text: &str) -> String {
        let at = |place: &str| self.dir.path().join(place).display().to_string();
        for folder in ["units", "run", "proc"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        text.replace("/var/", &at("var/"))
            .replace(&format!("{UNITS}/"), &at("units/"))
            .replace("/run/", &at("run/"))
            .replace("/proc/", &at("proc/"))
            .replace("/usr/local/bin/", &at("bin/"))
            .replace(&format!("{PARTS_FOLDER}/"), &at("lib/"))
    }

    /// What may be downloaded, and what apt-get makes of it: a program of that name.
    fn downloads(&self, machine: &str) {
        let here = self.dir.path().join("bin").display().to_string();
        self.program("uname", &format!("#!/bin/sh\necho {machine}\n"));
        let makes = |name: &str| format!("echo '#!/bin/sh' >{here}/{name}; chmod +x {here}/{name}");
        self.program(
            "curl",
            &format!(
                "#!/bin/sh\necho curl \"$*\" >>\"$LOG\"\necho \"{}\" >\"$3\"\n",
                makes("code-server")
            ),
        );
        self.program(
            "apt-get",
            &format!(
                "#!/bin/sh\necho apt-get \"$*\" >>\"$LOG\"\ncase \"$*\" in *chrome.deb) {};; *chromium) {};; esac\n",
                makes("google-chrome-stable"),
                makes("chromium")
            ),
        );
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.dir.path().join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "the scripts are run for real")]
    fn host(&self, program: &str, args: &[&str]) -> Output {
        Command::new(program).args(args).output().unwrap()
    }

    fn run(&self, name: &str) -> (i32, String) {
        self.fed(name, &[], "")
    }

    #[expect(clippy::disallowed_methods, reason = "the scripts are run for real")]
    fn fed(&self, name: &str, args: &[&str], input: &str) -> (i32, String) {
        let bin = self.dir.path().join("bin");
        let mut child = Command::new(bin.join(name))
            .args(args)
            .env_clear()
            .env("PATH", &bin)
            .env("LOG", self.dir.path().join("log"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let ran = child.wait_with_output().unwrap();
        (ran.status.code().unwrap(), String::from_utf8_lossy(&ran.stdout).into_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn exists(&self, path: &str) -> bool {
        self.dir.path().join(Path::new(path)).exists()
    }
}

#[test]
fn the_scripts_make_a_machine_ready_and_say_how_far_it_is() {
    let machine = Machine::new(&["jq"]);
    assert_eq!(machine.run("crabbox-ready"), (1, "still starting\n".to_owned()));
    let here = machine.dir.path().join("bin").display().to_string();
    machine.program(
        "apt-get",
        &format!("#!/bin/sh\necho apt-get \"$*\" >>\"$LOG\"\ncase \"$*\" in *install*) echo '#!/bin/sh' >{here}/jq; chmod +x {here}/jq;; esac\n"),
    );
    assert_eq!(machine.run("crabbox-setup").0, 0, "{}", machine.log());
    assert_eq!(machine.run("crabbox-ready"), (0, String::new()));
    let log = machine.log();
    assert!(
        log.starts_with("daemon-reload\nenable --now crabbox-expiry.timer\n"),
        "armed first: {log}"
    );
    assert!(log.contains("install -y --no-install-recommends ca-certificates jq"), "{log}");
    assert!(machine.exists("work") && machine.exists("var/cache/crabbox/npm"));
}

#[test]
fn a_machine_that_has_everything_installs_nothing() {
    let machine = Machine::new(&[]);
    assert_eq!(machine.run("crabbox-setup").0, 0, "{}", machine.log());
    assert_eq!(machine.run("crabbox-ready").0, 0);
}

#[test]
fn a_machine_that_can_never_be_ready_says_so_and_why() {
    let machine = Machine::new(&["jq"]);
    machine.program("apt-get", "#!/bin/sh\necho no such mirror\nexit 100\n");
    assert_eq!(machine.run("crabbox-setup").0, 1);
    let (code, said) = machine.run("crabbox-ready");
    assert_eq!(code, NEVER_READY);
    assert!(
        said.contains("cannot update the lists of packages") && said.contains("no such mirror"),
        "{said}"
    );
    assert!(machine.log().contains("crabbox-expiry.timer"), "its end is armed all the same");
}

#[test]
fn the_scripts_are_plain_sh() {
    let machine = Machine::new(&[]);
    for name in ["crabbox-setup", "crabbox-ready"] {
        let path = machine.dir.path().join("bin").join(name);
        let checked = machine.host("sh", &["-n", path.to_str().unwrap()]);
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn a_browser_and_an_editor_server_are_there_only_where_they_were_asked_for() {
    for (machine, asked, browser, source) in [
        ("x86_64", &["browser"][..], Some("google-chrome-stable"), "dl.google.com"),
        ("aarch64", &["browser", "code"], Some("chromium"), "code-server.dev/install.sh"),
        ("x86_64", &["code"], None, "--method=standalone"),
        ("x86_64", &[], None, ""),
    ] {
        let made = Machine::asked_for(&[], asked);
        made.downloads(machine);
        assert_eq!(made.run("crabbox-setup").0, 0, "{}", made.log());
        assert_eq!(made.run("crabbox-ready"), (0, String::new()), "{asked:?}");
        assert!(made.log().contains(source) || source == "--method=standalone", "{}", made.log());
        assert_eq!(made.exists("bin/code-server"), asked.contains(&"code"), "{asked:?}");
        let path = browser.map(|name| made.dir.path().join("bin").join(name).display().to_string());
        let wrapper = fs::read_to_string(made.dir.path().join("bin/crabbox-browser"));
        assert_eq!(wrapper.is_ok(), browser.is_some(), "{asked:?}");
        if let Some(path) = path {
            assert!(wrapper.unwrap().contains(&path));
        }
    }
}

#[test]
fn a_machine_that_gets_no_browser_is_never_ready() {
    let machine = Machine::asked_for(&[], &["browser"]);
    machine.downloads("x86_64");
    machine.program("apt-get", "#!/bin/sh\nexit 100\n");
    assert_eq!(machine.run("crabbox-setup").0, 1);
    let (code, said) = machine.run("crabbox-ready");
    assert_eq!((code, said.contains("cannot install a browser")), (NEVER_READY, true), "{said}");
    assert_eq!(with("crabbox", None, &["desk"]).unwrap_err().code, ErrorCode::Config);
}

#[test]
fn a_desktop_is_ready_when_only_the_machine_itself_can_look_at_it() {
    let machine = Machine::asked_for(&[], &["desktop"]);
    machine.program("apt-get", "#!/bin/sh\necho apt-get \"$*\" >>\"$LOG\"\n");
    assert_eq!(machine.run("crabbox-setup").0, 0, "{}", machine.log());
    let read = |path: &str| fs::read_to_string(machine.dir.path().join(path)).unwrap();
    let vnc = read("units/crabbox-x11vnc.service");
    assert!(vnc.contains(" -localhost ") && vnc.contains("/vnc.password "), "{vnc}");
    let password = read("var/lib/crabbox/vnc.password");
    assert!(!vnc.contains(password.trim()) && password.trim().len() == 8, "{password}");
    let mode = fs::metadata(machine.dir.path().join("var/lib/crabbox/vnc.password")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    for (listeners, ready) in [
        ("", false),
        ("   0: 00000000:170C 00000000:0000 0A 00000000:00000000\n", false),
        ("   1: 0100007F:170C 00000000:0000 0A 00000000:00000000\n", true),
    ] {
        fs::create_dir_all(machine.dir.path().join("proc/net")).unwrap();
        fs::write(machine.dir.path().join("proc/net/tcp"), listeners).unwrap();
        let (code, said) = machine.run("crabbox-ready");
        assert_eq!((code == 0, said.contains("desktop is missing")), (ready, !ready), "{said}");
    }
}

#[test]
fn a_tailnet_is_joined_with_a_key_that_is_in_no_argument_no_file_and_no_user_data() {
    let machine = Machine::asked_for(&[], &[TAILSCALE]);
    machine.program("curl", "#!/bin/sh\n>\"$3\"\n");
    let text = "#!/bin/sh\necho \"$*\" >>\"$LOG\"\ncase $1 in\n\
        up) cat \"${2#--auth-key=file:}\" >\"$LOG.key\"; [ -e \"$LOG.refuse\" ] && echo expired >&2 && exit 1; exit 0;;\n\
        ip) echo 100.64.0.7;;\nesac\n";
    machine.program("tailscale", text);
    assert_eq!(machine.run("crabbox-setup").0, 0, "{}", machine.log());
    assert_eq!(machine.run("crabbox-ready").0, 0);
    let words = ["crabbox-blue-prawn", "tag:crabbox,tag:ci"];
    let joined = machine.fed("crabbox-tailnet", &words, "tskey-auth-c4n4ry\n");
    assert_eq!(joined, (0, "100.64.0.7\n".to_owned()));
    let log = machine.log();
    assert!(log.contains("--hostname=crabbox-blue-prawn --advertise-tags=tag:crabbox,tag:ci"));
    let given = fs::read_to_string(machine.dir.path().join("log.key")).unwrap();
    assert_eq!((given.trim(), log.contains("c4n4ry")), ("tskey-auth-c4n4ry", false));
    assert_eq!(fs::read_dir(machine.dir.path().join("run")).unwrap().count(), 0);
    fs::write(machine.dir.path().join("log.refuse"), "").unwrap();
    assert_eq!(machine.fed("crabbox-tailnet", &words, "tskey-auth-c4n4ry\n").0, 1);
    assert_eq!(fs::read_dir(machine.dir.path().join("run")).unwrap().count(), 0);
}
