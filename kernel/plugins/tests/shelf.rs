//! The user's own plugins: what is agreed to, copied, packed, signed, and what changes afterwards.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests may fail loudly too")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crabbox_plugins::{
    Candidate, Entry, Places, Policy, Rule, Shelf, Standing, Verdict, content, discover, of_grants,
    pack, vet,
};
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::ErrorCode;
use proptest::prelude::*;

struct Desk {
    dir: tempfile::TempDir,
    shelf: Shelf,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().join("data"));
        Self { dir, shelf }
    }

    fn programs(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// Puts a plugin somewhere, which asks for these tools.
    fn plugin(&self, at: &str, tools: &str) -> PathBuf {
        let dir = self.dir.path().join(at);
        fs::create_dir_all(dir.join("lib")).unwrap();
        let text = format!(
            "manifest = 1\nid = \"example.dev/rack\"\nversion = \"1.0.0\"\nprotocols = [\"1\"]\n\
             [[provider]]\nname = \"rack\"\nkind = \"ssh-lease\"\ntargets = [\"linux\"]\n\
             [[artifact]]\nruntime = \"stdio\"\npath = \"rack\"\n[grants]\nexec = [{tools}]\n"
        );
        fs::write(dir.join("crabbox-plugin.toml"), text).unwrap();
        fs::write(dir.join("rack"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("rack"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("lib/part"), "1").unwrap();
        dir
    }

    fn found(&self) -> Entry {
        let places = Places { user: self.shelf.folders(), ..Places::beside(Path::new("/none/x")) };
        discover(&places).find("rack").unwrap().clone()
    }

    fn vet(&self, policy: &Policy) -> crabbox_kernel::error::Result<Verdict> {
        vet(&self.found(), &self.shelf, policy, &self.programs())
    }

    fn open(&self, path: &Path) -> crabbox_kernel::error::Result<Candidate> {
        Candidate::open(path, &path.display().to_string(), &self.shelf, &self.programs())
    }
}

fn asked(verdict: Verdict) -> crabbox_plugins::Proposal {
    match verdict {
        Verdict::Ask(proposal) => *proposal,
        Verdict::Run(entry) => panic!("{} runs unasked", entry.folder.display()),
    }
}

fn runs(verdict: Verdict) -> Entry {
    match verdict {
        Verdict::Run(entry) => *entry,
        Verdict::Ask(proposal) => panic!("{} is asked about", proposal.id),
    }
}

#[test]
fn a_dropped_in_plugin_is_asked_about_once_and_runs_from_a_read_only_copy() {
    let desk = Desk::new();
    let dropped = desk.plugin("data/rack", "\"rackctl\"");
    let proposal = asked(desk.vet(&Policy::default()).unwrap());
    assert!(!proposal.is_change);
    assert!(proposal.command().starts_with("crabbox plugin trust example.dev/rack@sha256:"));
    assert!(proposal.lines.iter().any(|line| line.text.contains("`rackctl`")));
    desk.shelf.agree(&dropped, &desk.found().manifest, &proposal.files).unwrap();
    let entry = runs(desk.vet(&Policy::default()).unwrap());
    assert!(entry.program.starts_with(desk.dir.path().join("data/store")));
    assert_eq!(entry.pin().unwrap().digest, proposal.files);
    let mode = fs::metadata(&entry.program).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o555);
}

#[test]
fn new_bytes_at_an_old_path_have_no_trust_and_only_what_is_new_is_shown() {
    let desk = Desk::new();
    let dropped = desk.plugin("data/rack", "\"rackctl\"");
    let first = asked(desk.vet(&Policy::default()).unwrap());
    desk.shelf.agree(&dropped, &desk.found().manifest, &first.files).unwrap();
    desk.plugin("data/rack", "\"rackctl\", \"curl\"");
    let second = asked(desk.vet(&Policy::default()).unwrap());
    assert!(second.is_change && second.files != first.files);
    let lines: Vec<_> = second.lines.iter().map(|line| &*line.text).collect();
    assert_eq!(lines, ["run the program `curl` as you"]);
    fs::write(dropped.join("lib/part"), "2").unwrap();
    assert_ne!(asked(desk.vet(&Policy::default()).unwrap()).files, second.files);
}

#[test]
fn a_stored_copy_that_was_changed_does_not_run() {
    let desk = Desk::new();
    let dropped = desk.plugin("data/rack", "");
    let proposal = asked(desk.vet(&Policy::default()).unwrap());
    let copy = desk.shelf.agree(&dropped, &desk.found().manifest, &proposal.files).unwrap();
    fs::remove_file(copy.join("rack")).unwrap();
    fs::write(copy.join("rack"), "#!/bin/sh\nevil\n").unwrap();
    let error = desk.vet(&Policy::default()).unwrap_err();
    assert_eq!(error.code, ErrorCode::PluginUntrusted);
    assert!(error.to_string().contains("was changed"), "{error}");
}

#[test]
fn a_plugin_that_is_removed_can_still_end_the_leases_it_made() {
    let desk = Desk::new();
    let dropped = desk.plugin("data/rack", "");
    let proposal = asked(desk.vet(&Policy::default()).unwrap());
    desk.shelf.agree(&dropped, &desk.found().manifest, &proposal.files).unwrap();
    fs::remove_dir_all(&dropped).unwrap();
    assert!(desk.shelf.folders().is_empty());
    let pin = |digest: &str| PluginPin {
        id: "example.dev/rack".into(),
        version: "1.0.0".into(),
        digest: digest.into(),
    };
    let kept = desk.shelf.pinned(&pin(&proposal.files), &desk.programs()).unwrap().unwrap();
    assert_eq!(kept[0].provider.name, "rack");
    for other in [format!("sha256:{}", "0".repeat(64)), "sha256:../../x".to_owned(), String::new()]
    {
        assert!(desk.shelf.pinned(&pin(&other), &desk.programs()).unwrap().is_none(), "{other}");
    }
    assert_eq!(desk.shelf.sweep(std::slice::from_ref(&proposal.files)).unwrap(), 0);
    assert_eq!(desk.shelf.sweep(&[]).unwrap(), 1);
}

#[test]
fn equal_folders_make_equal_packages_and_a_package_installs_as_its_folder_would() {
    let desk = Desk::new();
    let (one, two) = (desk.plugin("one", "\"rackctl\""), desk.plugin("two", "\"rackctl\""));
    fs::create_dir_all(two.join(".git")).unwrap();
    fs::write(two.join(".git/config"), "x").unwrap();
    let packed = |dir: &Path| {
        let mut bytes = Vec::new();
        pack(dir, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(packed(&one), packed(&two));
    let file = desk.dir.path().join("rack.cbxplugin");
    fs::write(&file, packed(&one)).unwrap();
    let candidate = desk.open(&file).unwrap();
    let proposal = candidate.proposal(&desk.shelf, &Policy::default()).unwrap().unwrap();
    assert_eq!(proposal.files, content(&one).unwrap().digest);
    let locked = candidate.install(&desk.shelf).unwrap();
    assert_eq!(locked.files, proposal.files);
    assert_eq!(desk.shelf.lock().unwrap().plugins["example.dev/rack"], locked);
    runs(desk.vet(&Policy::default()).unwrap());
    let again = desk.open(&file).unwrap();
    assert!(again.proposal(&desk.shelf, &Policy::default()).unwrap().is_none(), "agreed already");
}

#[test]
fn a_package_cannot_write_outside_its_folder_nor_hold_anything_but_files() {
    let desk = Desk::new();
    let folder = desk.plugin("rack", "");
    let manifest = fs::read(folder.join("crabbox-plugin.toml")).unwrap();
    let file = |tar: &mut tar::Builder<Vec<u8>>, path: &[u8], kind: tar::EntryType| {
        let mut header = tar::Header::new_old();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, std::io::empty()).unwrap();
    };
    for (path, kind) in [
        (&b"../evil"[..], tar::EntryType::Regular),
        (b"/tmp/evil", tar::EntryType::Regular),
        (b"link", tar::EntryType::Symlink),
        (b"pipe", tar::EntryType::Fifo),
    ] {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(manifest.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "crabbox-plugin.toml", &manifest[..]).unwrap();
        file(&mut tar, path, kind);
        let bytes = zstd::encode_all(&tar.into_inner().unwrap()[..], 1).unwrap();
        let package = desk.dir.path().join("bad.cbxplugin");
        fs::write(&package, bytes).unwrap();
        let error = desk.open(&package).unwrap_err();
        assert!(error.to_string().contains("no plain file below it"), "{error}");
    }
    assert!(!desk.dir.path().join("evil").exists());
    symlink("/etc/passwd", folder.join("link")).unwrap();
    assert!(pack(&folder, &mut Vec::new()).unwrap_err().to_string().contains("plain files only"));
}

#[test]
fn a_signed_publisher_stays_with_its_key() {
    let desk = Desk::new();
    // Signed with two keys that are lost: the manifests name their public halves.
    let signed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signed");
    let package = |name: &str| {
        let file = format!("{name}.cbxplugin");
        for file in [file.clone(), format!("{file}.minisig")] {
            fs::copy(signed.join(&file), desk.dir.path().join(&file)).unwrap();
        }
        desk.dir.path().join(file)
    };
    let first = package("first");
    let signed_only = Policy { rule: Rule::Signed, ..Policy::default() };
    let candidate = desk.open(&first).unwrap();
    let proposal = candidate.proposal(&desk.shelf, &signed_only).unwrap().unwrap();
    assert!(proposal.signature.contains("first time"), "{}", proposal.signature);
    candidate.install(&desk.shelf).unwrap();
    runs(desk.vet(&signed_only).unwrap());

    let foreign = package("foreign");
    let error = desk.open(&foreign).unwrap_err();
    assert!(error.to_string().contains("another than the one first seen"), "{error}");
    let second = package("second");
    desk.open(&second).unwrap();
    fs::OpenOptions::new().append(true).open(&second).unwrap().write_all(b"x").unwrap();
    assert_eq!(desk.open(&second).unwrap_err().code, ErrorCode::Config);
    fs::copy(&first, &second).unwrap();
    assert_eq!(desk.open(&second).unwrap_err().code, ErrorCode::PluginUntrusted);
    fs::remove_file(desk.dir.path().join("second.cbxplugin.minisig")).unwrap();
    let error = desk.open(&desk.dir.path().join("second.cbxplugin")).unwrap_err();
    assert!(error.to_string().contains("this one is not"), "{error}");
}

#[test]
fn the_policy_stands_before_any_agreement() {
    let desk = Desk::new();
    let dropped = desk.plugin("data/rack", "");
    let proposal = asked(desk.vet(&Policy::default()).unwrap());
    desk.shelf.agree(&dropped, &desk.found().manifest, &proposal.files).unwrap();
    let rule = |rule, allow: &[&str]| Policy {
        rule,
        allow: allow.iter().map(|id| (*id).to_owned()).collect(),
        ..Policy::default()
    };
    runs(desk.vet(&rule(Rule::Allowlist, &["example.dev/rack"])).unwrap());
    for (policy, words) in [
        (rule(Rule::Signed, &[]), "`plugins.policy` is signed"),
        (rule(Rule::FirstParty, &[]), "is first-party"),
        (rule(Rule::None, &[]), "is none"),
        (rule(Rule::Allowlist, &["example.dev/other"]), "is allowlist"),
        (rule(Rule::Allowlist, &[]), "`plugins.allow` is empty"),
        (
            Policy { revoked: vec![proposal.files.clone()], ..Policy::default() },
            "`plugins.revoked`",
        ),
    ] {
        let error = desk.vet(&policy).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn standing_depends_on_files_and_grants_together() {
    let desk = Desk::new();
    let dropped = desk.plugin("data/rack", "");
    let manifest = desk.found().manifest;
    let files = content(&dropped).unwrap().digest;
    assert_eq!(desk.shelf.standing(&manifest, &files).unwrap(), Standing::Unknown);
    desk.shelf.agree(&dropped, &manifest, &files).unwrap();
    assert_eq!(desk.shelf.standing(&manifest, &files).unwrap(), Standing::Trusted);
    let mut greedy = (*manifest).clone();
    greedy.grants.env.push("AWS_SECRET_ACCESS_KEY".into());
    assert_eq!(desk.shelf.standing(&greedy, &files).unwrap(), Standing::Changed);
}

proptest! {
    #[test]
    fn the_digest_of_grants_does_not_depend_on_their_order(
        mut names in proptest::collection::vec("[a-z]{1,8}", 0..8), turn in 0_usize..8
    ) {
        let grants = |names: &[String]| crabbox_schemas::manifest::Grants {
            exec: names.to_vec(),
            env: names.to_vec(),
            ..Default::default()
        };
        let before = of_grants(&grants(&names));
        if !names.is_empty() {
            let by = turn % names.len();
            names.rotate_left(by);
        }
        prop_assert_eq!(of_grants(&grants(&names)), before);
    }
}
