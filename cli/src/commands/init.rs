//! `crabbox init`: three files that make a repository ready for boxes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::InitView;
use crabbox_schemas::error::ErrorCode;

use crate::checkout;
use crate::context::Context;

/// Write configuration, workflow and agent skill into this repository
///
/// Looks at the repository to propose sensible excludes. Refuses to overwrite files unless --force is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox init
  crabbox init --force")]
pub(crate) struct Args {
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
    /// Where the repository's configuration goes
    #[arg(long, value_name = "FILE", default_value = ".crabbox.yaml")]
    config: PathBuf,
    /// Where the hydration workflow goes
    #[arg(long, value_name = "FILE", default_value = ".github/workflows/crabbox.yml")]
    workflow: PathBuf,
    /// Where the agent skill goes
    #[arg(long, value_name = "FILE", default_value = ".agents/skills/crabbox/SKILL.md")]
    skill: PathBuf,
}

/// A kind of repository: a file that gives it away, untracked directories not worth sending, its test command.
struct Ecosystem {
    name: &'static str,
    marker: &'static str,
    excludes: &'static [&'static str],
    test: &'static str,
}

const ECOSYSTEMS: &[Ecosystem] = &[
    Ecosystem { name: "Rust", marker: "Cargo.toml", excludes: &["target"], test: "cargo test" },
    Ecosystem {
        name: "pnpm",
        marker: "pnpm-lock.yaml",
        excludes: &["node_modules", ".pnpm-store"],
        test: "pnpm test",
    },
    Ecosystem {
        name: "Yarn",
        marker: "yarn.lock",
        excludes: &["node_modules", ".yarn/cache"],
        test: "yarn test",
    },
    Ecosystem { name: "Bun", marker: "bun.lock", excludes: &["node_modules"], test: "bun test" },
    Ecosystem {
        name: "npm",
        marker: "package.json",
        excludes: &["node_modules"],
        test: "npm test",
    },
    Ecosystem { name: "Go", marker: "go.mod", excludes: &["bin"], test: "go test ./..." },
    Ecosystem {
        name: "Python",
        marker: "pyproject.toml",
        excludes: &[".venv", "__pycache__"],
        test: "pytest",
    },
    Ecosystem {
        name: "Python",
        marker: "requirements.txt",
        excludes: &[".venv", "__pycache__"],
        test: "pytest",
    },
    Ecosystem {
        name: "Gradle",
        marker: "build.gradle",
        excludes: &[".gradle", "build"],
        test: "./gradlew test",
    },
    Ecosystem {
        name: "Gradle",
        marker: "build.gradle.kts",
        excludes: &[".gradle", "build"],
        test: "./gradlew test",
    },
    Ecosystem { name: "Maven", marker: "pom.xml", excludes: &["target"], test: "mvn test" },
    Ecosystem {
        name: "Swift",
        marker: "Package.swift",
        excludes: &[".build", ".swiftpm"],
        test: "swift test",
    },
    Ecosystem {
        name: "Ruby",
        marker: "Gemfile",
        excludes: &["vendor/bundle"],
        test: "bundle exec rake test",
    },
    Ecosystem {
        name: "Elixir",
        marker: "mix.exs",
        excludes: &["_build", "deps"],
        test: "mix test",
    },
];

/// Writes the three files.
pub(crate) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let root = checkout::find(ctx)?.root;
    let found: Vec<&Ecosystem> =
        ECOSYSTEMS.iter().filter(|e| root.join(e.marker).exists()).collect();
    let test = found.first().map_or("make test", |e| e.test);
    let files =
        [(&args.config, config(&found)), (&args.workflow, workflow()), (&args.skill, skill(test))];
    if !args.force
        && let Some((path, _)) = files.iter().find(|(path, _)| root.join(path).exists())
    {
        return Err(KernelError::new(
            ErrorCode::Usage,
            format!("{} exists already; nothing was written", path.display()),
        )
        .hint("pass --force to overwrite it"));
    }
    for (path, text) in &files {
        write(&root.join(path), text, args.force)?;
        if !ctx.global.json {
            ctx.terminal.out(&format!("wrote {}", path.display()));
        }
    }
    if ctx.global.json {
        let wrote = files.map(|(path, _)| path.display().to_string()).into();
        ctx.terminal.out_json(&InitView { schema_version: SCHEMA_VERSION, wrote });
    }
    Ok(0)
}

fn write(path: &Path, text: &str, force: bool) -> Result<()> {
    let failed = |e: std::io::Error| {
        KernelError::new(ErrorCode::Usage, format!("cannot write {}", path.display())).because(&e)
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(!force).create(force).truncate(force);
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
}

fn config(found: &[&Ecosystem]) -> String {
    let mut excludes: Vec<&str> = found.iter().flat_map(|e| e.excludes.iter().copied()).collect();
    excludes.sort_unstable();
    excludes.dedup();
    let mut names: Vec<&str> = found.iter().map(|e| e.name).collect();
    names.dedup();
    let seen = if names.is_empty() { "nothing it knows".to_owned() } else { names.join(", ") };
    let mut text = format!(
        "# Settings for crabbox, shared by everybody who works on this repository.\n\
         # `crabbox config show` prints every setting and where it comes from.\n\
         # `crabbox init` saw here: {seen}\n\
         \n\
         # provider: NAME        # set by each person in the user file, unless you all share one\n\
         ttl: 90m\n\
         idleTimeout: 30m\n\
         env:\n  allow: [CI, NODE_OPTIONS]\n"
    );
    if !excludes.is_empty() {
        text.push_str("sync:\n  # Left out although git may know them. What git ignores stays here anyway, unless `sync.include` names it.\n  exclude:\n");
        for exclude in excludes {
            text.push_str(&format!("    # - {exclude}\n"));
        }
    }
    text
}

fn workflow() -> String {
    "# Prepares a box like a CI job would, then keeps it until `crabbox stop`.\n\
     name: crabbox\n\
     on:\n  workflow_dispatch:\n    inputs:\n      crabbox_id: { description: lease id, required: true }\n      \
     crabbox_runner_label: { description: label of the box's runner, required: true }\n      \
     crabbox_job: { description: job name, required: false }\n      \
     crabbox_keep_alive_minutes: { description: minutes to keep the workspace, default: '90' }\n      \
     ref: { description: ref to check out, required: false }\n\
     jobs:\n  hydrate:\n    runs-on: ${{ inputs.crabbox_runner_label }}\n    steps:\n      \
     - uses: actions/checkout@v4\n        with: { ref: '${{ inputs.ref }}' }\n      \
     # Install what the tests need here, as your CI does.\n      \
     - name: Hand the workspace to crabbox\n        env: { ID: '${{ inputs.crabbox_id }}', MINUTES: '${{ inputs.crabbox_keep_alive_minutes }}' }\n        run: |\n          \
     mkdir -p \"$HOME/.crabbox/actions\"\n          \
     printf 'WORKSPACE=%s\\nRUN_ID=%s\\nJOB=%s\\nREADY_AT=%s\\n' \"$GITHUB_WORKSPACE\" \"$GITHUB_RUN_ID\" \"$GITHUB_JOB\" \"$(date -u +%FT%TZ)\" >\"$HOME/.crabbox/actions/$ID.env\"\n          \
     end=$(( $(date +%s) + MINUTES * 60 ))\n          \
     while [ \"$(date +%s)\" -lt \"$end\" ] && [ ! -e \"$HOME/.crabbox/actions/$ID.stop\" ]; do sleep 15; done\n"
        .to_owned()
}

fn skill(test: &str) -> String {
    format!(
        "---\nname: crabbox\ndescription: Run this repository's tests on a leased box instead of this machine\n---\n\
         \n\
         Use `crabbox run -- COMMAND` to run a command on a fresh box with the working tree as it is, uncommitted\n\
         changes included. Its output is streamed and its exit status passed through.\n\
         \n\
         - Tests: `crabbox run -- {test}`\n\
         - Several runs in a row: `crabbox warmup --json`, then `crabbox run --id SLUG -- COMMAND`, then `crabbox stop SLUG`.\n\
         - For programs: add `--json`; on failure read `errorKind`, `stage` and `retryable`.\n\
         - Exit statuses 1–8 can be crabbox's own or the command's: `by` in `--json` tells which.\n\
         - If something was interrupted: `crabbox cleanup`.\n"
    )
}
