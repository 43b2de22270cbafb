//! `.cbxplugin`: a plugin's folder as one deterministic file, a tar compressed with zstd, the manifest first.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Component, Path};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::{failed, make_dir};
use crabbox_schemas::error::ErrorCode;

use crate::catalog::Place;
use crate::sound::{complete, sound};
use crate::{digest, discover, manifest};

/// How the file's name ends.
pub const EXTENSION: &str = "cbxplugin";
/// Most bytes a package may unpack to.
const LARGEST: u64 = 1 << 30;
/// Most files in a package.
const MOST_FILES: usize = 20_000;
/// Compression that is worth its time once.
const ZSTD_LEVEL: i32 = 19;

/// Packs a folder: equal folders give equal packages, wherever and whenever they are packed. What nobody could use is
/// not packed.
pub fn pack(folder: &Path, out: &mut dyn Write) -> Result<()> {
    let entries = discover::load(folder, Place::User, folder)?;
    sound(&entries)?;
    entries.first().map_or(Ok(()), |entry| complete(folder, &entry.manifest))?;
    let mut files = digest::content(folder)?.files;
    files.sort_by_key(|item| (item.path != manifest::FILE, item.path.clone()));
    let fault = |e: std::io::Error| failed("cannot pack", folder, &e);
    let mut zstd = zstd::Encoder::new(out, ZSTD_LEVEL).map_err(fault)?;
    zstd.include_checksum(true).map_err(fault)?;
    let mut tar = tar::Builder::new(zstd);
    for item in files {
        let mut file = File::open(folder.join(&item.path)).map_err(fault)?;
        let mut header = tar::Header::new_ustar();
        header.set_size(file.metadata().map_err(fault)?.len());
        header.set_mode(if item.exec { 0o755 } else { 0o644 });
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, &item.path, &mut file).map_err(fault)?;
    }
    let zstd = tar.into_inner().map_err(fault)?;
    zstd.finish().map_err(fault)?;
    Ok(())
}

/// Unpacks a package into an empty folder. Only plain files below it are taken, and only so many.
pub(crate) fn unpack(package: impl Read, folder: &Path) -> Result<()> {
    let zstd =
        zstd::Decoder::with_buffer(BufReader::new(package)).map_err(|e| bad(&e.to_string()))?;
    let mut tar = tar::Archive::new(zstd.take(LARGEST + 1));
    let (mut count, mut bytes) = (0, 0);
    for entry in tar.entries().map_err(|e| bad(&e.to_string()))? {
        let mut entry = entry.map_err(|e| bad(&e.to_string()))?;
        let path = entry.path().map_err(|e| bad(&e.to_string()))?.into_owned();
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || entry.header().entry_type() != tar::EntryType::Regular {
            return Err(bad(&format!("{} is no plain file below it", path.display())));
        }
        if count == 0 && path != Path::new(manifest::FILE) {
            return Err(bad("its first file is not the manifest"));
        }
        (count, bytes) = (count + 1, entry.size().saturating_add(bytes));
        if count > MOST_FILES || bytes > LARGEST {
            return Err(bad("it is too large: 20000 files and 1 GiB at most"));
        }
        let to = folder.join(&path);
        let fault = |e: std::io::Error| failed("cannot unpack to", &to, &e);
        if let Some(dir) = to.parent() {
            make_dir(dir)?;
        }
        let mut file = File::create_new(&to).map_err(fault)?;
        std::io::copy(&mut entry, &mut file).map_err(|e| bad(&e.to_string()))?;
        let exec = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        let mode = if exec { 0o755 } else { 0o644 };
        fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .map_err(fault)?;
    }
    // The sum over all of it comes last.
    std::io::copy(&mut tar.into_inner(), &mut std::io::sink()).map_err(|e| bad(&e.to_string()))?;
    match count {
        0 => Err(bad("it is empty")),
        _ => Ok(()),
    }
}

fn bad(why: &str) -> KernelError {
    KernelError::new(ErrorCode::Config, format!("this is no usable plugin package: {why}"))
        .hint("get the package anew; `crabbox plugin pack FOLDER` makes one")
}
