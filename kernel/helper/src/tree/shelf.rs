//! The staging folder: the content a flight needs, each piece checked before it counts.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crabbox_tree::lane::Unpacker;
use crabbox_tree::{
    ByHash, Hash, Hashes, Have, Kind, Piece, Recipe, WHOLE, block, content_hash, cut, hex, pieces,
};
use rustix::fs::{AtFlags, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::tree::check::content_of;
use crate::tree::dirs::{Dirs, list, open_file};
use crate::tree::fault::{Fault, Result};
use crate::tree::find::Finder;
use crate::tree::partial::Partial;
use crate::tree::place::Place;
use crate::tree::plan::Plan;
use crate::tree::stat::Look;

/// How much of a large file is cut at once. Bytes.
const WINDOW: usize = 4 << 20;

/// The staging folder of a flight.
#[derive(Debug)]
pub(crate) struct Shelf {
    place: Arc<Place>,
    /// The delta's pieces.
    pub(crate) pieces: Vec<Piece>,
    index: ByHash<usize>,
    /// Whether each piece is here, or not needed.
    here: Vec<AtomicBool>,
    /// Small contents that are needed.
    whole: Hashes,
    pub(crate) partials: Vec<Partial>,
    /// Where each chunk belongs: which partial, and its number there.
    spots: ByHash<Vec<(usize, usize)>>,
    pub(crate) received: AtomicU64,
}

impl Shelf {
    /// The folder for what the plan needs, nothing missing yet.
    pub(crate) fn new(place: Arc<Place>, plan: &Plan) -> Result<Self> {
        let pieces = pieces(&plan.delta)?;
        let index = pieces.iter().enumerate().map(|(at, p)| (p.sha256, at)).collect();
        let here = pieces.iter().map(|_| AtomicBool::new(true)).collect();
        Ok(Self {
            place,
            pieces,
            index,
            here,
            whole: Hashes::default(),
            partials: Vec::new(),
            spots: ByHash::default(),
            received: AtomicU64::new(0),
        })
    }

    /// Finds what is on the box already, when there is somebody to look for it, and notes what is missing.
    pub(crate) fn fill(&mut self, plan: &mut Plan, finder: Option<&Finder<'_>>) -> Result<()> {
        let mut needed = ByHash::<u64>::default();
        for (entry, _) in plan.moves() {
            if let Kind::File { size, sha256, .. } = &entry.kind {
                needed.insert(*sha256, *size);
            }
        }
        let staged = sift(&self.place, &needed, finder.is_some())?;
        needed.retain(|hash, _| !staged.contains(hash));
        let empty = content_hash(b"");
        if needed.remove(&empty).is_some() {
            self.write(&empty, b"")?;
        }
        if let Some(finder) = finder {
            let mut missing = needed.keys().copied().collect();
            finder.find(&mut missing, &mut plan.going)?;
            needed.retain(|hash, _| missing.contains(hash));
        }
        let (small, large): (ByHash<_>, ByHash<_>) =
            needed.into_iter().partition(|(_, size)| *size <= WHOLE);
        self.whole = small.into_keys().collect();
        self.need(large.into_keys().collect(), &plan.delta.recipes)?;
        match finder {
            Some(finder) if !self.spots.is_empty() => self.recut(plan, finder),
            _ => Ok(()),
        }
    }

    /// Notes which pieces are missing.
    fn need(&mut self, mut large: Hashes, recipes: &[Recipe]) -> Result<()> {
        let miss = |here: &[AtomicBool], index: &ByHash<usize>, hash: &Hash| {
            if let Some(at) = index.get(hash) {
                here[*at].store(false, Ordering::Relaxed);
            }
        };
        for hash in &self.whole {
            miss(&self.here, &self.index, hash);
        }
        for recipe in recipes {
            if !large.remove(&recipe.content) {
                continue;
            }
            let (partial, present) = Partial::open(&self.place, recipe)?;
            for (number, hash) in partial.hashes().enumerate() {
                if !present.contains(&number) {
                    miss(&self.here, &self.index, hash);
                    self.spots.entry(*hash).or_default().push((self.partials.len(), number));
                }
            }
            self.partials.push(partial);
        }
        Ok(())
    }

    /// Cuts the large files that go, and takes the chunks that are missing.
    fn recut(&self, plan: &Plan, finder: &Finder<'_>) -> Result<()> {
        let mut dirs = Dirs::new(finder.top);
        for going in plan.going.iter().filter(|going| going.size > WHOLE) {
            // What cannot be read is simply not found.
            if let Ok(fd) = dirs.open_file(&going.path) {
                self.recut_file(&File::from(fd))?;
            }
        }
        Ok(())
    }

    fn recut_file(&self, file: &File) -> Result<()> {
        let mut window = Vec::new();
        loop {
            let room = (WINDOW - window.len()) as u64;
            let Ok(n) = file.take(room).read_to_end(&mut window) else { return Ok(()) };
            let last = n as u64 != room;
            let mut at = 0;
            for chunk in cut(&window, last) {
                let end = at + chunk.len as usize;
                if self.lacks(&chunk.sha256) {
                    self.place_piece(&chunk.sha256, &window[at..end])?;
                    self.here[self.index[&chunk.sha256]].store(true, Ordering::Relaxed);
                }
                at = end;
            }
            if last || at == 0 {
                return Ok(());
            }
            window.drain(..at);
        }
    }

    fn lacks(&self, hash: &Hash) -> bool {
        self.index.get(hash).is_some_and(|at| !self.here[*at].load(Ordering::Relaxed))
    }

    /// Which pieces are here, or not needed.
    pub(crate) fn have(&self) -> Have {
        let mut have = Have::nothing(self.pieces.len());
        for (at, here) in self.here.iter().enumerate() {
            if here.load(Ordering::Relaxed) {
                have.set(at);
            }
        }
        have
    }

    /// How many pieces are missing.
    pub(crate) fn missing(&self) -> u64 {
        self.here.iter().filter(|here| !here.load(Ordering::Relaxed)).count() as u64
    }

    /// Unpacks a block, in `raw`, and stages its pieces.
    pub(crate) fn put_block(
        &self,
        sealed: &[u8],
        unpacker: &mut Unpacker,
        raw: &mut Vec<u8>,
    ) -> Result<()> {
        unpacker.open(sealed, raw)?;
        let mut fault = None;
        for record in block::records(raw) {
            let (hash, bytes) = record?;
            if let Err(wrong) = self.put(&hash, bytes) {
                fault.get_or_insert(wrong);
            }
        }
        fault.map_or(Ok(()), Err)
    }

    fn put(&self, hash: &Hash, bytes: &[u8]) -> Result<()> {
        let at = *self
            .index
            .get(hash)
            .ok_or_else(|| Fault::Protocol("a piece came that the delta does not know".into()))?;
        if bytes.len() != self.pieces[at].len as usize || content_hash(bytes) != *hash {
            return Err(Fault::Content);
        }
        self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.here[at].load(Ordering::Relaxed) {
            return Ok(());
        }
        match (self.place_piece(hash, bytes), &self.place.store) {
            // What was kept for later makes room for what is needed now.
            (Err(Fault::Full(_)), Some(store)) => {
                let _ = store.trim_to(0);
                self.place_piece(hash, bytes)?;
            }
            (placed, _) => placed?,
        }
        self.here[at].store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a piece is still missing.
    pub(crate) fn needs(&self, number: usize) -> bool {
        !self.here[number].load(Ordering::Relaxed)
    }

    /// Takes a piece that was found elsewhere, if it is what it should be and is missing. A writer may be staging the
    /// same one now: each makes a whole file of its own.
    pub(crate) fn offer(&self, number: usize, bytes: &[u8]) -> bool {
        let Piece { sha256, len, .. } = &self.pieces[number];
        if !self.needs(number) || bytes.len() != *len as usize || content_hash(bytes) != *sha256 {
            return false;
        }
        let staged = match self.whole.contains(sha256) {
            true => self.write_beside(sha256, bytes),
            false => Ok(()),
        };
        let staged = staged.and_then(|()| self.place_chunks(sha256, bytes)).is_ok();
        self.here[number].fetch_or(staged, Ordering::Relaxed);
        staged
    }

    fn write_beside(&self, hash: &Hash, bytes: &[u8]) -> Result<()> {
        let (name, staging) = (hex(hash), &self.place.staging);
        let aside = format!("{name}.seed");
        let file = fresh(staging, &aside).map_err(Fault::of("stage a file"))?;
        File::from(file).write_all(bytes).map_err(Fault::io("stage a file"))?;
        renameat(staging, &aside, staging, &name).map_err(Fault::of("stage a file"))
    }

    /// Stages a piece whose bytes were checked.
    fn place_piece(&self, hash: &Hash, bytes: &[u8]) -> Result<()> {
        if self.whole.contains(hash) {
            self.write(hash, bytes)?;
        }
        self.place_chunks(hash, bytes)
    }

    fn place_chunks(&self, hash: &Hash, bytes: &[u8]) -> Result<()> {
        for (partial, number) in self.spots.get(hash).into_iter().flatten() {
            self.partials[*partial].put(*number, bytes)?;
        }
        Ok(())
    }

    fn write(&self, hash: &Hash, bytes: &[u8]) -> Result<()> {
        let name = hex(hash);
        let file = fresh(&self.place.staging, &name).map_err(Fault::of("stage a file"))?;
        File::from(file).write_all(bytes).map_err(Fault::io("stage a file"))
    }
}

/// Makes a new file, in the place of any that has its name.
pub(crate) fn fresh(dir: impl AsFd, name: &str) -> rustix::io::Result<std::os::fd::OwnedFd> {
    const MAKE: OFlags = OFlags::RDWR
        .union(OFlags::CREATE)
        .union(OFlags::EXCL)
        .union(OFlags::NOFOLLOW)
        .union(OFlags::CLOEXEC);
    match openat(&dir, name, MAKE, 0o644.into()) {
        Err(Errno::EXIST) => {
            unlinkat(&dir, name, AtFlags::empty())?;
            openat(&dir, name, MAKE, 0o644.into())
        }
        made => made,
    }
}

/// Looks through what an earlier flight left: which needed contents are whole; the rest goes to the store.
fn sift(place: &Place, needed: &ByHash<u64>, reuse: bool) -> Result<Hashes> {
    let failed = || Fault::of("look through the staging folder");
    let mut whole = Hashes::default();
    let mut buffer = Vec::new();
    for (name, _) in list(place.staging.as_fd()).map_err(failed())? {
        let text = name.to_string_lossy();
        let (stem, kind) = text.split_once('.').unwrap_or((&text, ""));
        let hash = crabbox_tree::unhex(stem).filter(|hash| needed.contains_key(hash));
        let stat = statat(&place.staging, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed())?;
        // A second name means that the tree has this very file.
        let ours = stat.st_nlink == 1 && Look::of(&stat).is_file();
        let keep = match (hash, kind) {
            (Some(_), "part" | "log") => ours,
            (Some(hash), "") if ours && reuse => {
                let found = open_file(place.staging.as_fd(), &name)
                    .and_then(|fd| content_of(&fd, &mut buffer))
                    .map_err(failed())?;
                let right = found.is_some_and(|(is, _)| is == hash);
                if right {
                    whole.insert(hash);
                }
                right
            }
            _ => false,
        };
        let stored = match (&place.store, crabbox_tree::unhex(&text)) {
            (Some(store), Some(hash)) if ours && !keep => {
                store.keep(&hash, place.staging.as_fd(), &name).is_ok()
            }
            _ => false,
        };
        if !keep && !stored {
            unlinkat(&place.staging, &name, AtFlags::empty()).map_err(failed())?;
        }
    }
    Ok(whole)
}
