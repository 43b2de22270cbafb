//! How the box is doing.

use std::path::Path;

use crabbox_schemas::helper::BoxStat;

use crate::tree::store_bytes;

/// Takes a look; what cannot be learnt stays zero. `base_dir` is a lease's folder, on the disk that counts.
pub(crate) fn stat(base_dir: Option<&Path>) -> BoxStat {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let load = read("/proc/loadavg");
    let mut loads = load.split_whitespace().map(|word| word.parse().unwrap_or_default());
    let mut next = || loads.next().unwrap_or_default();
    let memory = read("/proc/meminfo");
    let uptime = read("/proc/uptime");
    // A lease that was not worked in yet has no folder, but will be on the disk of what is above it.
    let mut dirs = base_dir.unwrap_or(Path::new("/")).ancestors();
    let disk = dirs.find_map(|dir| rustix::fs::statvfs(dir).ok());
    BoxStat {
        cpus: std::thread::available_parallelism()
            .map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        load: [next(), next(), next()],
        memory_bytes: kilobytes(&memory, "MemTotal:"),
        memory_free_bytes: kilobytes(&memory, "MemAvailable:"),
        disk_bytes: disk.as_ref().map_or(0, |d| d.f_blocks.saturating_mul(d.f_frsize)),
        disk_free_bytes: disk.as_ref().map_or(0, |d| d.f_bavail.saturating_mul(d.f_frsize)),
        store_bytes: base_dir.map(store_bytes).unwrap_or_default(),
        uptime_secs: uptime.split('.').next().and_then(|s| s.parse().ok()).unwrap_or_default(),
    }
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or_default().saturating_mul(1024)
}
