//! G: what providers cost that are programs of their own, installed beside crabbox and never linked into it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::Result;
use crate::launch::{Guard, Step};
use crate::repos::Kind;
use crate::row::{Figure, Goal, Row, Sense, goal};
use crate::sample::{Racer, Series, in_turns};
use crate::stage::{Seat, Stage, Way};

pub(crate) const ROWS: &[Row] = &[
    row(
        "G1",
        "a plugin starts, says hello and ends",
        "ms",
        &[goal("stdio", 15.0, 5.0), goal("wasm", 20.0, 10.0), goal("native", 15.0, 5.0)],
        hello,
    ),
    row(
        "G2",
        "a plugin answers a ping",
        "µs",
        &[goal("stdio", 100.0, 30.0), goal("wasm", 100.0, 30.0), goal("native", 100.0, 30.0)],
        ping,
    ),
    Row {
        sense: Sense::AtLeast,
        ..row(
            "G3",
            "output of a delegated run, from the plugin to a pipe",
            "MB/s",
            &[goal("stdio", 150.0, 300.0)],
            output,
        )
    },
    row(
        "G4",
        "`crabbox --version` with 10 plugins installed",
        "ms",
        &[goal("10 plugins", 10.0, 5.0)],
        version,
    ),
    row(
        "G5",
        "80 more providers with 6 settings each, as flags of `run --help`",
        "ms more",
        &[goal("80 providers", 2.0, 1.0)],
        flags,
    ),
];

const fn row(
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    goals: &'static [Goal],
    measure: fn(&Stage) -> Result<Vec<Figure>>,
) -> Row {
    Row { id, what, baseline: "", unit, sense: Sense::AtMost, goals, measure }
}

/// Pings of one sample.
const PINGS: u32 = 2000;
/// Bytes of one sample of output.
const OUTPUT: u64 = 256 << 20;

/// What the kernel says first, as a line.
fn initialize() -> Vec<u8> {
    let params = json!({
        "protocols": ["1.0"], "kernel": {"name": "crabbox", "version": "0.1.0"},
        "instance": {"provider": "ssh", "config": {"host": "localhost"}},
    });
    line(&json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}))
}

fn line(frame: &serde_json::Value) -> Vec<u8> {
    format!("{frame}\n").into_bytes()
}

/// The ssh provider in each of its forms that was built.
fn forms(stage: &Stage) -> Vec<(&'static str, Step)> {
    let step = |name: &str| {
        let step = Step::new(stage.program(name), stage.path(), &stage.env);
        step.env("CRABBOX_PLUGIN", "1").stdin(initialize())
    };
    let runners = [
        ("wasm", "crabbox-wasm-runner", "crabbox-provider-ssh.wasm"),
        ("native", "crabbox-native-runner", "crabbox-provider-ssh.native"),
    ];
    let run = runners.into_iter().filter_map(|(form, runner, file)| {
        let (runner, file) = (stage.program(runner), stage.program(file));
        let built = runner.is_file() && file.is_file();
        built.then(|| (form, step(&runner.display().to_string()).arg(file)))
    });
    [("stdio", step("crabbox-provider-ssh"))].into_iter().chain(run).collect()
}

fn each(names: &[(&'static str, Step)], series: Vec<Series>) -> Vec<Figure> {
    let figure = |(form, series): (&str, Series)| {
        let figure = Figure::of(form, series.min());
        Figure { median: Some(series.median()), ..figure.series([series]) }
    };
    names.iter().map(|(form, _)| *form).zip(series).map(figure).collect()
}

fn hello(stage: &Stage) -> Result<Vec<Figure>> {
    let forms = forms(stage);
    let mut racers: Vec<Racer<'_>> = Vec::new();
    for (form, step) in &forms {
        racers.push((form, Box::new(|| greet(step))));
    }
    let series = in_turns(stage.often() * 5, &mut racers)?;
    drop(racers);
    Ok(each(&forms, series))
}

/// Milliseconds of a whole life with one answer.
fn greet(step: &Step) -> Result<f64> {
    let done = step.run()?;
    let answer = String::from_utf8_lossy(&done.stdout);
    let greeted = answer.contains("\"result\"");
    if greeted { Ok(done.took.as_secs_f64() * 1e3) } else { Err(answer.into_owned()) }
}

/// A session that was greeted.
struct Greeted {
    child: std::process::Child,
    stdin: std::process::ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
    _guard: Guard,
}

impl Greeted {
    fn begin(step: &Step) -> Result<Self> {
        let mut child = step.start()?;
        let guard = Guard::of(&child);
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a plugin without pipes".to_owned());
        };
        let mut greeted = Self { child, stdin, answers: BufReader::new(stdout), _guard: guard };
        greeted.exchange(&initialize())?;
        Ok(greeted)
    }

    fn exchange(&mut self, frame: &[u8]) -> Result<()> {
        let mut answer = String::new();
        self.stdin.write_all(frame).map_err(|e| e.to_string())?;
        self.answers.read_line(&mut answer).map_err(|e| e.to_string())?;
        if answer.contains("\"result\"") { Ok(()) } else { Err(answer) }
    }

    /// Microseconds of one ping, as the mean of many, one after the other.
    fn pings(&mut self) -> Result<f64> {
        let question = line(&json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}));
        let begun = Instant::now();
        (0..PINGS).try_for_each(|_| self.exchange(&question))?;
        Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(PINGS))
    }

    fn end(self) -> Result<()> {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        child.wait().map(drop).map_err(|e| e.to_string())
    }
}

fn ping(stage: &Stage) -> Result<Vec<Figure>> {
    let forms = forms(stage);
    let begun = forms.iter().map(|(form, step)| Ok((*form, Greeted::begin(step)?)));
    let mut begun = begun.collect::<Result<Vec<_>>>()?;
    let mut racers: Vec<Racer<'_>> = Vec::new();
    for (form, session) in &mut begun {
        racers.push((form, Box::new(|| session.pings())));
    }
    let series = in_turns(stage.often(), &mut racers)?;
    drop(racers);
    begun.into_iter().try_for_each(|(_, session)| session.end())?;
    Ok(each(&forms, series))
}

fn output(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = stage.seat(Way::Direct, &stage.repo(Kind::Small)?, None)?;
    let folder = stage.path().join("firehose");
    write_plugin(&folder, "firehose", "delegated-run", &stage.program("bench-firehose"))?;
    let dev = format!("--plugin-dev={}", folder.display());
    let bytes = OUTPUT.to_string();
    let words = ["run", "-q", &dev, "--provider", "firehose", "--no-sync", "--", &bytes];
    let once = || {
        let done = seat.crabbox(&words).run()?;
        let came = done.stdout.len() as u64;
        if came == OUTPUT {
            Ok(done.took.as_secs_f64() * 1e3)
        } else {
            Err(format!("{came} bytes"))
        }
    };
    let mut racers = [("stdio", Box::new(once) as Box<dyn FnMut() -> Result<f64>>)];
    let series = in_turns(stage.seldom() + 2, &mut racers)?.remove(0);
    let rate = |ms: f64| OUTPUT as f64 / 1e6 / (ms / 1e3);
    let figure =
        Figure { median: Some(rate(series.median())), ..Figure::of("stdio", rate(series.min())) };
    Ok(vec![figure.series([series])])
}

fn version(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = crowded(stage, 10, 6)?;
    let empty = crowded(stage, 0, 0)?;
    compare(stage, &seat, &empty, &["--version"], |with, without| {
        let none = Figure::of("no plugins", without.min());
        vec![
            Figure { median: Some(with.median()), ..Figure::of("10 plugins", with.min()) },
            Figure { median: Some(without.median()), ..none },
        ]
    })
}

fn flags(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = crowded(stage, 80, 6)?;
    let empty = crowded(stage, 0, 0)?;
    compare(stage, &seat, &empty, &["run", "--help"], |with, without| {
        let figure = Figure::of("80 providers", with.min() - without.min());
        vec![Figure { median: Some(with.median() - without.median()), ..figure }]
    })
}

fn compare(
    stage: &Stage,
    seat: &Seat,
    empty: &Seat,
    words: &[&str],
    tell: fn(&Series, &Series) -> Vec<Figure>,
) -> Result<Vec<Figure>> {
    let (with, without) = (seat.crabbox(words), empty.crabbox(words));
    let mut racers = [
        ("with", Box::new(|| with.ms()) as Box<dyn FnMut() -> Result<f64>>),
        ("without", Box::new(|| without.ms())),
    ];
    let series = in_turns(stage.often() * 5, &mut racers)?;
    Ok(tell(&series[0], &series[1]).into_iter().map(|f| f.series(series.clone())).collect())
}

/// Somebody with so many plugins in their folder, each with so many settings.
fn crowded(stage: &Stage, plugins: usize, settings: usize) -> Result<Seat> {
    let seat = stage.seat(Way::Direct, &stage.repo(Kind::Small)?, None)?;
    let shelf = seat.crabbox(&["plugin", "path"]).run()?.stdout;
    let shelf = PathBuf::from(String::from_utf8_lossy(&shelf).trim());
    for number in 0..plugins {
        let name = format!("cloud{number}");
        let folder = shelf.join(&name);
        write_plugin(&folder, &name, "ssh-lease", Path::new("provider"))?;
        let mut schema = json!({"type": "object", "additionalProperties": false, "properties": {}});
        for setting in 0..settings {
            schema["properties"][format!("setting-{setting}")] =
                json!({"type": "string", "description": "One of many", "default": "none"});
        }
        fs::write(folder.join("config.schema.json"), schema.to_string())
            .map_err(|e| e.to_string())?;
        let manifest = folder.join("crabbox-plugin.toml");
        let text = fs::read_to_string(&manifest).map_err(|e| e.to_string())?;
        let text = text.replace("targets", "config-schema = \"config.schema.json\"\ntargets");
        fs::write(manifest, text).map_err(|e| e.to_string())?;
    }
    Ok(seat)
}

fn write_plugin(folder: &Path, name: &str, kind: &str, program: &Path) -> Result<()> {
    let manifest = format!(
        "manifest = 1\nid = \"example.dev/{name}\"\nversion = \"0.1.0\"\nprotocols = [\"1\"]\n\
         [[provider]]\nname = \"{name}\"\nkind = \"{kind}\"\ntargets = [\"linux\"]\n\
         [[artifact]]\nruntime = \"stdio\"\npath = \"provider\"\n"
    );
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join("crabbox-plugin.toml"), manifest))
        .and_then(|()| match program.is_file() {
            true => fs::copy(program, folder.join("provider")).map(drop),
            false => fs::write(folder.join("provider"), "#!/bin/sh\nexit 64\n"),
        });
    written.map_err(|e| format!("{}: {e}", folder.display()))
}
