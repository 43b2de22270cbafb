//! What people type today: `ssh`, `rsync`, `tar`, and a chain of many small commands.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::launch::Step;
use crate::stage::{Stage, Way};

/// What the classic tool's warm run does: this many `ssh` processes one after the other, of which some wait for
/// a file that a lock's witness makes, and one `rsync` of a list of files between them.
const CHAIN: usize = 25;
const GATED: usize = 16;

/// Runs its command only once a file is there, as a guard that checks a lock would have it.
const GATE: &str = "g=$(mktemp -d) && { (until [ -e \"$g/open\" ]; do sleep 0.05; done; true) & job=$!; \
                    ps -o lstart= -p \"$job\" >/dev/null; : >\"$g/open\"; wait \"$job\"; status=$?; \
                    rm -r \"$g\"; exit $status; }";

/// Programs the baselines need.
pub(crate) const TOOLS: &[&str] = &["ssh", "rsync", "git", "tar", "zstd", "strace"];

impl Stage {
    /// `ssh host true`.
    pub(crate) fn bare(&self, way: Way, warm: bool) -> Result<f64> {
        self.ssh(way, warm).arg("true").ms()
    }

    /// Everything a git work tree holds that is not ignored, as a list that ends each name with a zero byte.
    pub(crate) fn listing(&self, repo: &Path) -> Result<Vec<u8>> {
        let all = self.ls_files(repo).run()?.stdout;
        let kept = all.split(|b| *b == 0).filter(|name| !name.is_empty()).filter(|name| {
            let name = String::from_utf8_lossy(name);
            fs::symlink_metadata(repo.join(&*name)).is_ok()
        });
        Ok(kept.flat_map(|name| [name, &[0]].concat()).collect())
    }

    pub(crate) fn ls_files(&self, repo: &Path) -> Step {
        self.step("git").arg("-C").arg(repo).args(["ls-files", "-co", "--exclude-standard", "-z"])
    }

    /// `rsync` of exactly the listed files, as tools do that make their own list.
    pub(crate) fn rsync_listed(&self, way: Way, repo: &Path, to: &Path) -> Result<Step> {
        let step = self.rsync(way, &["-az", "--from0", "--files-from=-"], repo, to);
        Ok(step.stdin(self.listing(repo)?))
    }

    /// `rsync` as people type it.
    pub(crate) fn rsync_plain(&self, way: Way, repo: &Path, to: &Path) -> Step {
        let options = ["-az", "--delete", "--exclude=.git", "--filter=:- .gitignore"];
        self.rsync(way, &options, repo, to)
    }

    fn rsync(&self, way: Way, options: &[&str], repo: &Path, to: &Path) -> Step {
        let [option, config, host] = self.ssh_words(way, true);
        let shell = format!("ssh {option} {config}");
        let (from, to) = (format!("{}/", repo.display()), format!("{host}:{}/", to.display()));
        self.step("rsync").args(options.iter().copied()).args(["-e", &shell, &from, &to])
    }

    /// `tar | zstd | ssh`, which always sends everything.
    pub(crate) fn tar_zstd(&self, way: Way, repo: &Path, to: &Path) -> Result<Step> {
        let words = self.ssh_words(way, true).join(" ");
        let (from, to) = (repo.display(), to.display());
        let script = format!(
            "set -o pipefail; tar -C {from} --null -T - -cf - | zstd -q -3 -T0 | ssh {words} 'zstd -qd | tar -xf - -C {to}'"
        );
        Ok(self.step("bash").args(["-c", &script]).stdin(self.listing(repo)?))
    }

    /// The whole chain; gives milliseconds.
    pub(crate) fn chain(&self, way: Way, repo: &Path, to: &Path) -> Result<f64> {
        let mut whole = 0.0;
        for number in 1..CHAIN {
            let script = if number <= GATED { GATE } else { "bash -lc true" };
            whole += self.ssh(way, true).arg(script).ms()?;
            if number == CHAIN / 2 {
                whole += self.rsync_listed(way, repo, to)?.ms()?;
            }
        }
        Ok(whole)
    }

    /// An empty folder on the box for a baseline.
    pub(crate) fn emptied(&self, name: &str) -> Result<std::path::PathBuf> {
        let dir = self.path().join("baselines").join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        Ok(dir)
    }
}
