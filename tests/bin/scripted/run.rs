//! A delegated command, really run.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Answer, CHUNK, STALL, Scene};

impl Scene {
    /// Really runs the command, in a folder with the workspace's files.
    pub(crate) fn run(&self) -> Answer {
        let fail = |e: std::io::Error| ("transient".to_owned(), e.to_string(), None);
        let words = |value: &Value| -> Vec<String> {
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(Into::into)
                .collect()
        };
        let folder = format!("run-{}", self.params["runId"].as_str().unwrap_or("x"));
        std::fs::create_dir_all(&folder).map_err(fail)?;
        if let Some(archive) = self.params["workspace"].as_str() {
            Command::new("tar").args(["-xf", archive, "-C", &folder]).status().map_err(fail)?;
        }
        let command = words(&self.params["command"]);
        let (program, args) = command
            .split_first()
            .ok_or_else(|| ("invalid_request".to_owned(), "no command".to_owned(), None))?;
        let env = self.params["env"].as_object().cloned().unwrap_or_default();
        let mut child = Command::new(program)
            .args(args)
            .envs(env.iter().filter_map(|(k, v)| Some((k, v.as_str()?))))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            scope.spawn(|| self.pump("stdout", stdout));
            scope.spawn(|| self.pump("stderr", stderr));
        });
        let code = self.outlive(&mut child);
        let _ = std::fs::remove_dir_all(&folder);
        code.map(|code| json!({"exitCode": code}))
    }

    pub(crate) fn pump(&self, channel: &str, stream: Option<impl Read>) {
        let Some(mut stream) = stream else { return };
        let (mut buffer, mut offset) = (vec![0; CHUNK], 0);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            self.paid_output(channel, offset, &buffer[..n]);
            offset += n as u64;
        }
    }

    /// Waits for the command, or kills it when the call is cancelled or its time is up.
    pub(crate) fn outlive(
        &self,
        child: &mut std::process::Child,
    ) -> Result<i32, (String, String, Option<String>)> {
        let start = Instant::now();
        let limit = self.params["timeoutSecs"].as_u64().map_or(STALL, Duration::from_secs);
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Ok(status.code().unwrap_or(137));
            }
            let cancelled = self.wait_for_cancel(Duration::from_millis(10));
            if cancelled.is_err() || start.elapsed() > limit {
                let _ = child.kill().and_then(|()| child.wait());
                cancelled?;
                return Ok(124);
            }
        }
    }
}
