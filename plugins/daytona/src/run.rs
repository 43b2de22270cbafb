//! One run: the tree goes there as an archive when the box does not have it, the command runs in a session of its own.

use crabbox_plugin_sdk::{
    Failure, Outcome, Output, Part, RunStartParams, RunStartResult, Workspace,
};

use crate::api::Api;
use crate::frames::{FRAMED, Frames};
use crate::sandboxes::Sandbox;
use crate::toolbox::Toolbox;

/// Makes the folder that only the user may read.
const PRIVATE: &str = r#"mkdir -p "$1" && chmod 700 "$1""#;

pub(crate) fn run(
    api: Api<'_>,
    sandbox: &Sandbox,
    params: &RunStartParams,
    output: &Output<'_>,
) -> Result<RunStartResult, Failure> {
    let nothing_ran = |failure: Failure| failure.outcome(Outcome::NotStarted);
    let toolbox = Toolbox::new(api, sandbox, &params.run_id).map_err(nothing_ran)?;
    let (tree, notes) = (api.config.tree(), api.config.notes());
    let sh = |program: &str, args: &[&str]| toolbox.step(program, args);
    let workspace = Workspace { call: api.call, params, tree, notes, sh };
    let placed = workspace.bring(|blob| {
        let archive = Part { blob: Some(blob.to_owned()), ..file() };
        toolbox.upload(&workspace.archive(), &archive)?;
        workspace.unpack()
    })?;
    let env = environment(&toolbox, &workspace.notes, params).map_err(nothing_ran)?;
    workspace.run(&placed, output, |words| {
        let framed = ["sh", "-c", FRAMED, "crabbox", &workspace.notes, &params.run_id, env];
        let words: Vec<&str> = framed.into_iter().chain(words.iter().map(String::as_str)).collect();
        let id = toolbox.start(&words)?;
        Ok(Frames::new(&toolbox, &sandbox.id, id))
    })
}

/// Puts the command's environment beside it, in a file that goes when it is read: no argument shows it.
fn environment(
    toolbox: &Toolbox<'_>,
    notes: &str,
    params: &RunStartParams,
) -> Result<&'static str, Failure> {
    if params.env.is_empty() {
        return Ok("");
    }
    let mut text = String::new();
    for (name, value) in &params.env {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.chars().all(plain)
        {
            let what = format!("{name:?} is no name for a variable of a shell");
            return Err(Failure::unsupported(what));
        }
        text.push_str(&format!("export {name}='{}'\n", value.replace('\'', r"'\''")));
    }
    toolbox.step(PRIVATE, &[notes])?;
    let file = Part { text: Some(text), ..file() };
    toolbox.upload(&format!("{notes}/{}.env", params.run_id), &file)?;
    Ok("env")
}

/// The part of an upload that holds the file.
fn file() -> Part {
    Part {
        name: "file".to_owned(),
        text: None,
        blob: None,
        file_name: Some("file".to_owned()),
        content_type: Some("application/octet-stream".to_owned()),
    }
}
