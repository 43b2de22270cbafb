//! What a plugin that is a program of its own is kept from: exactly what `plugin info` says, on whatever system.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use crabbox_tests::{Ended, Room};

const POWERS: &str = "powers = [\"network\", \"write\"]";

/// A room with a provider that asked for these powers; what it starts is confined as it is.
struct Stage {
    room: Room,
    dev: String,
}

impl Stage {
    fn with(powers: &str) -> Self {
        let room = Room::new();
        let folder = room.template("python", "rack");
        let manifest = folder.join("crabbox-plugin.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        assert!(text.contains(POWERS), "{text}");
        fs::write(&manifest, text.replace(POWERS, powers)).unwrap();
        let dev = format!("--plugin-dev={}", folder.display());
        room.repo("app");
        Self { room, dev }
    }

    /// What `plugin info` says about powers that were not asked for.
    fn says(&self, text: &str) -> bool {
        let words = ["plugin", "info", "rack", &self.dev, "--json"];
        let info = self.room.crabbox(self.room.path(), words).run().expect(0).json();
        info["asks"].to_string().contains(text)
    }

    fn runs(&self, story: &str) -> Ended {
        let words = ["run", "-q", &self.dev, "--provider", "rack", "--", "sh", "-c", story];
        self.room.crabbox(&self.room.at("app"), words).run()
    }

    /// Whether a command can make a file outside the plugin's folder.
    fn writes(&self) -> bool {
        let outside = self.room.at("outside");
        let ended =
            self.runs(&format!("echo x > {}; echo y > here && cat here", outside.display()));
        assert_eq!(ended.out(), "y\n", "its own folder is always its own: {ended}");
        fs::remove_file(outside).is_ok()
    }

    /// Whether a command can connect to a server on this machine.
    fn connects(&self) -> bool {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let story = format!(
            "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 5)' && echo in"
        );
        self.runs(&story).out() == "in\n"
    }
}

#[test]
fn a_plugin_that_asked_for_nothing_is_kept_from_what_its_page_says() {
    let stage = Stage::with("");
    assert_eq!(stage.writes(), !stage.says("kept from writing elsewhere"));
    assert_eq!(stage.connects(), !stage.says("from TCP connections"));
}

#[test]
fn a_plugin_has_the_powers_it_asked_for_and_no_other() {
    let both = Stage::with(POWERS);
    assert!(both.writes() && both.connects());
    assert!(both.says("it is not confined"));
    let writes = Stage::with("powers = [\"write\"]");
    assert!(writes.writes());
    assert_eq!(writes.connects(), !writes.says("except open TCP connections"));
    let connects = Stage::with("powers = [\"network\"]");
    assert!(connects.connects());
    assert_eq!(connects.writes(), !connects.says("except write outside its own folder"));
}

#[test]
fn temporary_files_of_a_confined_plugin_lie_in_its_own_folder() {
    let stage = Stage::with("");
    let provider = stage.room.at("rack/provider.py");
    let text = fs::read_to_string(&provider).unwrap();
    let probe = "import tempfile\nwith tempfile.NamedTemporaryFile() as probe:\n    \
        pathlib.Path(os.environ['CRABBOX_STATE_DIR'], 'probe').write_text(probe.name)\n";
    fs::write(&provider, text.replace("\nserve(", &format!("\n{probe}serve("))).unwrap();
    let _ = stage.runs("true").expect(0);
    let own = stage.room.state().join("plugins/example.dev-rack");
    let name = fs::read_to_string(own.join("probe")).unwrap();
    assert_eq!(name.starts_with(own.to_str().unwrap()), stage.says("kept from writing elsewhere"));
}
