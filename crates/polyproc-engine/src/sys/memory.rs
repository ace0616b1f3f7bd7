//! How much memory there is: for the system, for the cgroup, for this process.

/// Bytes of memory that could be used now: what the system has available and what the cgroup still allows, whichever is
/// less.
pub fn available() -> u64 {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    });
    system.unwrap_or(1 << 30).min(cgroup_left().unwrap_or(u64::MAX))
}

/// Bytes that the cgroup (version 2) of this process may still take; `None` where there is no limit.
fn cgroup_left() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut folder = std::path::PathBuf::from(format!("/sys/fs/cgroup{path}"));
    let mut least = None::<u64>;
    while folder.starts_with("/sys/fs/cgroup") {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        if let (Some(most), Some(used)) = (read("memory.max"), read("memory.current")) {
            let left = most.saturating_sub(used);
            least = Some(least.map_or(left, |l| l.min(left)));
        }
        if !folder.pop() {
            break;
        }
    }
    least
}

/// The most bytes of address space or file size that the resource limits of this process leave; `None` without limit.
pub fn limit() -> Option<u64> {
    [libc::RLIMIT_AS, libc::RLIMIT_FSIZE]
        .into_iter()
        .filter_map(|resource| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: getrlimit fills one rlimit.
            let outcome = unsafe { libc::getrlimit(resource, &mut limit) };
            (outcome == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
        })
        .min()
}

/// The size of a page in bytes.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}
