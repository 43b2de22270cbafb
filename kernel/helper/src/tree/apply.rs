//! The second half of a flight: the tree becomes exactly what is wanted, file by file, each at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use std::ffi::OsStr;

use crabbox_schemas::helper::Applied;
use crabbox_tree::{Delta, Entry, Kind, hex, shown};
use rustix::fs::{
    AtFlags, FileType, Mode, chmodat, fchmod, linkat, renameat, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use crate::tree::copy::copy;
use crate::tree::dirs::{Dirs, is_gone, remove_all};
use crate::tree::fault::{Fault, Result};
use crate::tree::guard::Doubt;
use crate::tree::place::{NOW, Place};
use crate::tree::plan::{After, Going, How, Plan, Todo, above};
use crate::tree::shelf::fresh;
use crate::tree::staging::Staging;
use crate::tree::stat::{Look, Record};
use crate::tree::{Tree, UNFINISHED, check, threads};

/// How often somebody who puts things in our way is put up with.
const PATIENCE: usize = 5;

/// Makes the tree what the plan says, and notes it. Everything needed is in the staging folder.
pub(super) fn apply(tree: &mut Tree, staging: &mut Staging) -> Result<Applied> {
    let (plan, top, place) = (&staging.plan, &staging.top, tree.place.clone());
    let mut applied = Applied::default();
    if !plan.is_idle() {
        let touched = Delta { removed: plan.touched(), ..Delta::default() };
        place.write(UNFINISHED, &touched.to_text())?;
        keep_replaced(&place, top, plan)?;
        let after = After::new(&tree.state.manifest, &plan.delta);
        applied.removed = remove(&place, top, plan, &after)?;
        copy_twins(&place, plan)?;
    }
    let looks = put_all(&place, top, plan)?;
    applied.written =
        plan.todo.iter().filter(|todo| !matches!(todo.how, How::Keep(_))).count() as u64;
    if plan.aim.is_some() || !plan.todo.is_empty() || staging.repairs || tree.has_change() {
        note_down(tree, staging, &looks)?;
        place.forget(UNFINISHED)?;
    }
    Ok(applied)
}

/// Writes down what the tree is now.
fn note_down(tree: &mut Tree, staging: &mut Staging, looks: &[Look]) -> Result<()> {
    let fresh = seen_all(tree, staging, looks)?;
    let plan = &mut staging.plan;
    tree.doubt_written(plan);
    let mut note = tree.small_change(plan.todo.len() + plan.removed.len());
    if let Some(note) = &mut note {
        let (removed, wanted) = (plan.removed.clone(), plan.delta.wanted.clone());
        note.extend(Delta { removed, wanted, recipes: Vec::new() }.to_text());
    }
    match plan.aim.take() {
        Some(aim) => {
            let wanted = std::mem::take(&mut plan.delta.wanted);
            let mut wanted: Vec<Option<Entry>> = wanted.into_iter().map(Some).collect();
            let entries = plan.todo.iter().map(|todo| wanted[todo.wanted].take());
            let fresh = entries.zip(fresh).filter_map(|(entry, record)| Some((entry?, record)));
            tree.state.change(&plan.removed, fresh, aim);
        }
        None => {
            for (todo, record) in plan.todo.iter().zip(fresh) {
                if let Some(at) = tree.state.find(&plan.entry(todo).path) {
                    tree.state.records[at] = record;
                }
            }
        }
    }
    tree.save(note.as_deref())
}

impl Tree {
    /// What was written is looked at once more: it may have been written by others since. New directories are
    /// not watched yet.
    fn doubt_written(&mut self, plan: &Plan) {
        let written = || plan.todo.iter().map(|todo| plan.entry(todo).path.as_path());
        if self.guard.as_ref().is_some_and(|guard| guard.covers(written())) {
            self.doubt.add(written().map(Path::to_owned));
        } else {
            (self.guard, self.doubt) = (None, Doubt::All);
        }
    }
}

/// Contents that are needed more than once get a file each: no two names ever share one.
fn copy_twins(place: &Place, plan: &Plan) -> Result<()> {
    let failed = |name: &str| Fault::of(format!("stage a copy of {name}"));
    for (_, name) in plan.moves() {
        let Some((first, _)) = name.split_once('.') else { continue };
        let from = crate::tree::dirs::open_file(place.staging.as_fd(), OsStr::new(first))
            .map_err(failed(first))?;
        let into = fresh(&place.staging, name).map_err(failed(name))?;
        copy(&from.into(), &into.into()).map_err(Fault::io(format!("stage a copy of {first}")))?;
    }
    Ok(())
}

/// Gives files that are about to be replaced a second name where their content is wanted.
fn keep_replaced(place: &Place, top: &OwnedFd, plan: &Plan) -> Result<()> {
    let mut dirs = Dirs::new(top);
    for going in plan.going.iter().filter(|going| going.replaced) {
        let kept = dirs.parent(&going.path).and_then(|(dir, name)| {
            if !as_seen(dir, name, going) {
                return Err(Errno::NOENT);
            }
            match (&place.store, going.to_staging) {
                (_, true) => {
                    linkat(dir, name, &place.staging, hex(&going.sha256), AtFlags::empty())
                }
                (Some(store), false) => store.keep_link(&going.sha256, dir, name),
                (None, false) => Ok(()),
            }
        });
        settle(going, kept)?;
    }
    Ok(())
}

/// Whether a file that goes still is what was seen, and has no other name.
fn as_seen(dir: BorrowedFd<'_>, name: &OsStr, going: &Going) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_nlink == 1 && Look::of(&stat) == going.look)
}

/// The store may miss a content; this flight may not.
fn settle(going: &Going, kept: rustix::io::Result<()>) -> Result<()> {
    match kept {
        Err(_) if going.to_staging => {
            Err(Fault::Unequal(format!("{} changes while it is moved", shown(&going.path))))
        }
        _ => Ok(()),
    }
}

/// Removes what goes, and the directories it leaves empty. How many entries went.
fn remove(place: &Place, top: &OwnedFd, plan: &Plan, after: &After<'_>) -> Result<u64> {
    let mut dirs = Dirs::new(top);
    let mut count = 0;
    let mut going = plan.going.iter().filter(|going| !going.replaced).peekable();
    for path in &plan.removed {
        let failed = || Fault::of(format!("remove {}", shown(path)));
        if let Some(going) = going.next_if(|going| going.path == *path)
            && move_out(place, &mut dirs, going)?
        {
            count += 1;
            continue;
        }
        let gone = dirs.parent(path).and_then(|(dir, name)| unlinkat(dir, name, AtFlags::empty()));
        match gone {
            Ok(()) => count += 1,
            // A directory that took its place is not ours.
            Err(Errno::ISDIR | Errno::PERM) => {
                let look = dirs.look(path).map_err(failed())?;
                if look.is_some_and(|look| look.kind() != FileType::Directory) {
                    return Err(failed()(Errno::PERM));
                }
            }
            Err(errno) if is_gone(errno) => {}
            Err(errno) => return Err(failed()(errno)),
        }
    }
    prune_all(&mut dirs, plan, after);
    Ok(count)
}

/// Moves a file out of the tree to where its content is wanted. Whether it is gone now.
fn move_out(place: &Place, dirs: &mut Dirs<'_>, going: &Going) -> Result<bool> {
    let moved = dirs.parent(&going.path).and_then(|(dir, name)| {
        if !as_seen(dir, name, going) {
            return Err(Errno::NOENT);
        }
        match (&place.store, going.to_staging) {
            (_, true) => renameat(dir, name, &place.staging, hex(&going.sha256)),
            (Some(store), false) => store.keep(&going.sha256, dir, name),
            (None, false) => Err(Errno::NOENT),
        }
    });
    let gone = moved.is_ok();
    settle(going, moved).map(|()| gone)
}

/// Removes the directories that removed paths leave empty.
fn prune_all(dirs: &mut Dirs<'_>, plan: &Plan, after: &After<'_>) {
    let mut last: &Path = Path::new("");
    for path in plan.removed.iter().rev() {
        if path.parent() == Some(last) {
            continue;
        }
        last = path.parent().unwrap_or(last);
        prune(dirs, path, after);
    }
}

/// Removes the directories above a removed path that are empty and not needed.
fn prune(dirs: &mut Dirs<'_>, path: &Path, after: &After<'_>) {
    for dir in above(path) {
        if after.has_below(dir) {
            return;
        }
        let gone = dirs.parent(dir).and_then(|(up, name)| unlinkat(up, name, AtFlags::REMOVEDIR));
        match gone {
            Ok(()) => {}
            Err(errno) if is_gone(errno) => {}
            // What is not empty holds what we never sent.
            Err(_) => return,
        }
    }
}

/// Puts every wanted entry in its place. How each was seen to be right.
fn put_all(place: &Place, top: &OwnedFd, plan: &Plan) -> Result<Vec<Look>> {
    let parts = threads::split(plan.todo.len(), |range| {
        let mut dirs = Dirs::new(top);
        plan.todo[range]
            .iter()
            .map(|todo| {
                let entry = plan.entry(todo);
                put(place, &mut dirs, plan, todo, entry)
                    .map_err(Fault::of(format!("write {}", shown(&entry.path))))
            })
            .collect::<Result<Vec<Look>>>()
    });
    let mut looks = Vec::with_capacity(plan.todo.len());
    for part in parts {
        looks.extend(part?);
    }
    Ok(looks)
}

fn put(
    place: &Place,
    dirs: &mut Dirs<'_>,
    plan: &Plan,
    todo: &Todo,
    entry: &Entry,
) -> rustix::io::Result<Look> {
    match (&todo.how, &entry.kind) {
        (How::Keep(look), _) => Ok(*look),
        (How::Chmod(look), Kind::File { exec, .. }) => {
            let file = dirs.open_file(&entry.path)?;
            fchmod(&file, mode(*exec)).map(|()| *look)
        }
        (How::Link, Kind::Symlink { target }) => {
            let name = format!("link.{}", todo.wanted);
            match symlinkat(target.as_os_str(), &place.staging, &name) {
                Err(Errno::EXIST) => {
                    unlinkat(&place.staging, &name, AtFlags::empty())?;
                    symlinkat(target.as_os_str(), &place.staging, &name)?;
                }
                made => made?,
            }
            let look = staged_look(place, &name)?;
            move_in(place, dirs, &name, entry).map(|()| look)
        }
        (How::Move(name), Kind::File { exec, .. }) => {
            let look = ready(place, plan, name, *exec)?;
            move_in(place, dirs, name, entry).map(|()| look)
        }
        _ => Err(Errno::INVAL),
    }
}

fn mode(exec: bool) -> Mode {
    Mode::from_raw_mode(if exec { 0o755 } else { 0o644 })
}

fn staged_look(place: &Place, name: &str) -> rustix::io::Result<Look> {
    statat(&place.staging, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Look::of(&stat))
}

/// Gives a staged file its mode, and the time of now when it comes from an earlier flight: what was built since
/// then must be older than this file. How it looks then.
fn ready(place: &Place, plan: &Plan, name: &str, exec: bool) -> rustix::io::Result<Look> {
    let look = staged_look(place, name)?;
    if look.mode & 0o7777 != mode(exec).as_raw_mode() {
        chmodat(&place.staging, name, mode(exec), AtFlags::empty())?;
    }
    if look.mtime >= plan.stamp {
        return Ok(look);
    }
    utimensat(&place.staging, name, &NOW, AtFlags::SYMLINK_NOFOLLOW)?;
    staged_look(place, name)
}

/// Moves a staged file or link to its path, in the place of what stands there.
fn move_in(
    place: &Place,
    dirs: &mut Dirs<'_>,
    staged: &str,
    entry: &Entry,
) -> rustix::io::Result<()> {
    let (dir, name) = dirs.made(&entry.path)?;
    for _ in 0..PATIENCE {
        match renameat(&place.staging, staged, dir, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => make_way(dir, name)?,
            moved => return moved,
        }
    }
    Err(Errno::NOTEMPTY)
}

/// Removes a directory that stands where a file belongs, with all it holds.
fn make_way(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match remove_all(dir, name) {
        Err(Errno::NOTDIR | Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// The records of the written entries, from how they look now.
fn seen_all(tree: &Tree, staging: &Staging, looks: &[Look]) -> Result<Vec<Record>> {
    let plan = &staging.plan;
    let stamp = tree.place.stamp()?;
    let parts = threads::split(plan.todo.len(), |range| {
        let mut dirs = Dirs::new(&staging.top);
        let mut buffer = Vec::new();
        range
            .map(|at| seen(&mut dirs, plan.entry(&plan.todo[at]), &looks[at], stamp, &mut buffer))
            .collect::<Result<Vec<Record>>>()
    });
    let mut records = Vec::with_capacity(plan.todo.len());
    for part in parts {
        records.extend(part?);
    }
    Ok(records)
}

/// The record of an entry that was just written. When it does not look like what was written, its bytes decide.
fn seen(
    dirs: &mut Dirs<'_>,
    entry: &Entry,
    written: &Look,
    stamp: (i64, u32),
    buffer: &mut Vec<u8>,
) -> Result<Record> {
    let look = dirs.look(&entry.path).ok().flatten();
    let right = match look {
        Some(look) if look.same_bytes(written) && right_mode(entry, &look) => Some(look),
        Some(look) => check::stands(dirs, entry, &look, buffer)?,
        None => None,
    };
    match right {
        Some(look) => Ok(Record::taken(look, stamp)),
        None => Err(Fault::Unequal(format!(
            "{} is not what was written a moment ago: something on the box writes to its tree, or its file system does not keep such names apart",
            shown(&entry.path)
        ))),
    }
}

fn right_mode(entry: &Entry, look: &Look) -> bool {
    match &entry.kind {
        Kind::File { exec, .. } => look.is_file() && look.exec() == *exec,
        Kind::Symlink { .. } => look.kind() == FileType::Symlink,
    }
}
