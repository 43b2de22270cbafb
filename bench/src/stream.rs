//! S: output on its way to the screen, and much of anything.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::time::Duration;

use crabbox_tests::line::Shape;
use rustix::time::{ClockId, clock_gettime};

use crate::Result;
use crate::effort::{peak, share};
use crate::launch::{Guard, Step};
use crate::repos::{Dice, Kind};
use crate::row::{Figure, Row, Sense, goal};
use crate::sample::{Series, in_turns};
use crate::stage::{Stage, Way};

pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "S1",
        what: "write on the box to bytes here, p95 beyond half the round trip",
        baseline: "`ssh` over ControlMaster",
        unit: "ms",
        sense: Sense::AtMost,
        goals: &[goal("0 ms", 2.0, 0.5), goal("50 ms", 2.0, 0.5)],
        measure: latency,
    },
    Row {
        id: "S2",
        what: "1 GB of stdout",
        baseline: "`ssh` over ControlMaster",
        unit: "x its rate",
        sense: Sense::AtLeast,
        goals: &[goal("1 GB", 0.7, 1.0)],
        measure: flood,
    },
    Row {
        id: "S3",
        what: "memory while a blocked reader holds 1 GB back",
        baseline: "",
        unit: "MiB",
        sense: Sense::AtMost,
        goals: &[goal("here", 32.0, 8.0), goal("bytes lost", 0.0, 0.0)],
        measure: blocked,
    },
    Row {
        id: "S4",
        what: "upload of 64 MB that does not shrink, 400 Mbit/s, 150 ms",
        baseline: "one channel of `ssh`",
        unit: "x its rate",
        sense: Sense::AtLeast,
        goals: &[goal("64 MB", 1.3, 3.0)],
        measure: upload,
    },
];

fn now() -> f64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// Milliseconds each line needed that says when it was written.
fn delays(step: &Step) -> Result<Vec<f64>> {
    let mut child = step.start()?;
    let _guard = Guard::of(&child);
    let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let mut delays = Vec::new();
    for line in lines {
        let line = line.map_err(|e| e.to_string())?;
        let read = now();
        let wrote: f64 = line.trim().parse().map_err(|e| format!("{line}: {e}"))?;
        delays.push(read - wrote * 1e3);
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if status.success() { Ok(delays) } else { Err(format!("{status}")) }
}

fn latency(stage: &Stage) -> Result<Vec<Figure>> {
    let count = if stage.quick() { 20 } else { 100 };
    let script = format!("for i in $(seq {count}); do date +%s.%N; sleep 0.02; done");
    let seat = stage.seat(Way::Line, &stage.repo(Kind::Small)?, None)?;
    let _ = seat.run(&["true"]).run()?;
    let measure = |ms: u64| {
        stage.line.reshape(Shape::rtt_ms(ms));
        let mine = delays(&seat.run(&["sh", "-c", &script]));
        let theirs = delays(&stage.ssh(Way::Line, true).arg(&script));
        stage.line.reshape(Shape::default());
        let beyond = |all: Vec<f64>| all.into_iter().map(|delay| delay - ms as f64 / 2.0).collect();
        let (mine, theirs) =
            (Series::new("crabbox", beyond(mine?)), Series::new("ssh", beyond(theirs?)));
        let note = format!(
            "p95 {:.2} ms, ssh {:.2} ms; each holds the time `date` needs to end",
            mine.quantile(0.95),
            theirs.quantile(0.95)
        );
        Ok(Figure::of(format!("{ms} ms"), mine.quantile(0.95)).series([mine, theirs]).note(note))
    };
    [0, 50].into_iter().map(measure).collect()
}

fn flood(stage: &Stage) -> Result<Vec<Figure>> {
    let size = if stage.quick() { 256 << 20 } else { 1 << 30 };
    let script = format!("head -c {size} /dev/zero");
    let seat = stage.seat(Way::Direct, &stage.repo(Kind::Small)?, None)?;
    let swallow = |step: Step| {
        let begun = now();
        let bytes = swallowed(&step)?;
        if bytes == size {
            Ok(now() - begun)
        } else {
            Err(format!("{bytes} of {size} bytes arrived"))
        }
    };
    let series = in_turns(
        3,
        &mut [
            ("crabbox", Box::new(|| swallow(seat.run(&["sh", "-c", &script])))),
            ("ssh", Box::new(|| swallow(stage.ssh(Way::Direct, true).arg(&script)))),
        ],
    )?;
    let rate = |series: &Series| size as f64 / 1e3 / series.min();
    let note = format!("{:.0} MB/s, ssh {:.0} MB/s", rate(&series[0]), rate(&series[1]));
    let figure = Figure::of("1 GB", series[1].min() / series[0].min()).series(series).note(note);
    Ok(vec![figure])
}

/// Reads all of a program's output and counts it.
fn swallowed(step: &Step) -> Result<u64> {
    let mut child = step.start()?;
    let _guard = Guard::of(&child);
    let mut out = child.stdout.take().ok_or("no output")?;
    let bytes = count(&mut out)?;
    let status = child.wait().map_err(|e| e.to_string())?;
    if status.success() { Ok(bytes) } else { Err(format!("{status}")) }
}

fn count(out: &mut impl std::io::Read) -> Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match out.read(&mut buffer).map_err(|e| e.to_string())? {
            0 => return Ok(bytes),
            more => bytes += more as u64,
        }
    }
}

fn blocked(stage: &Stage) -> Result<Vec<Figure>> {
    let size: u64 = if stage.quick() { 256 << 20 } else { 1 << 30 };
    let seat = stage.seat(Way::Direct, &stage.repo(Kind::Small)?, None)?;
    let _ = seat.run(&["true"]).run()?;
    let mut child = seat.run(&["sh", "-c", &format!("head -c {size} /dev/zero")]).start()?;
    let _guard = Guard::of(&child);
    let mut out = child.stdout.take().ok_or("no output")?;
    out.read_exact(&mut [0]).map_err(|e| e.to_string())?;
    let daemons = stage.processes().into_iter().filter(|pid| is_crabbox(*pid, child.id()));
    let daemons: Vec<u32> = daemons.map(|pid| pid as u32).collect();
    let all = |of: fn(u32) -> f64| of(child.id()) + daemons.iter().map(|pid| of(*pid)).sum::<f64>();
    // Long enough for everything that does not hold back to have come.
    let looks = if stage.quick() { 40 } else { 100 };
    let held = (0..looks).fold(0.0_f64, |most, _| {
        std::thread::sleep(Duration::from_millis(50));
        most.max(all(share))
    });
    let peaks = all(peak);
    let bytes = count(&mut out)? + 1;
    let status = child.wait().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("{status}"));
    }
    let note = format!(
        "client and daemon; {peaks:.1} MiB when the pages both have count twice, at their most"
    );
    Ok(vec![
        Figure::of("here", held).note(note),
        Figure::of("bytes lost", size as f64 - bytes as f64),
    ])
}

/// Whether a process is another crabbox here: the daemon.
fn is_crabbox(pid: i32, client: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim() == "crabbox" && pid as u32 != client
}

fn upload(stage: &Stage) -> Result<Vec<Figure>> {
    const SIZE: usize = 64_000_000;
    let repo = stage.path().join("repos/upload");
    fs::create_dir_all(&repo).map_err(|e| e.to_string())?;
    let _ = stage.step("git").arg("-C").arg(&repo).args(["init", "-q"]).run()?;
    let seat = stage.seat(Way::Line, &repo, None)?;
    let _ = seat.run(&["true"]).run()?;
    let sink = stage.emptied("upload")?.join("file");
    let dice = std::cell::RefCell::new(Dice(11));
    stage.line.reshape(Shape::rtt_ms(150).mbit(400));
    let series = in_turns(
        3,
        &mut [
            (
                "crabbox",
                Box::new(|| {
                    let content = dice.borrow_mut().bytes(SIZE);
                    fs::write(repo.join("big.bin"), content).map_err(|e| e.to_string())?;
                    seat.run(&["true"]).ms()
                }),
            ),
            (
                "ssh",
                Box::new(|| {
                    let content = dice.borrow_mut().bytes(SIZE);
                    stage
                        .ssh(Way::Line, true)
                        .arg(format!("cat >{}", sink.display()))
                        .stdin(content)
                        .ms()
                }),
            ),
        ],
    );
    stage.line.reshape(Shape::default());
    let (series, _) = (series?, fs::remove_dir_all(&repo));
    let rate = |series: &Series| SIZE as f64 / 1e3 / series.min();
    let note = format!("{:.1} MB/s, ssh {:.1} MB/s", rate(&series[0]), rate(&series[1]));
    Ok(vec![Figure::of("64 MB", series[1].min() / series[0].min()).series(series).note(note)])
}
