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

/// Memory that this process, or another that we may see, has for itself, in bytes: what lies in RAM and is shared with no
/// file and no other mapping, from `/proc/PID/statm`. Files and the session's memory do not count; what a fork has left
/// shared with the parent does.
pub fn own(pid: Option<i32>) -> Option<u64> {
    let text = match pid {
        Some(pid) => std::fs::read_to_string(format!("/proc/{pid}/statm")),
        None => std::fs::read_to_string("/proc/self/statm"),
    };
    let text = text.ok()?;
    let mut fields = text.split_whitespace().skip(1).map(|field| field.parse::<u64>().ok());
    let (resident, shared) = (fields.next()??, fields.next()??);
    Some(resident.saturating_sub(shared) * page_size())
}

/// How often the kernel has killed a process of our cgroup for want of memory: `oom_kill` in the `memory.events` of version 2,
/// or in the `memory.oom_control` of version 1.
pub fn kills() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    kills_in(&groups, |path| std::fs::read_to_string(path).ok())
}

fn kills_in(groups: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let count = |folder: &str, file: &str| {
        let text = read(&format!("{}/{file}", folder.trim_end_matches('/')))?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
    };
    groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if controllers.is_empty() {
            // In a container the path may be the host's, and the container's own group be what is mounted.
            let folder = format!("/sys/fs/cgroup{path}");
            return count(&folder, "memory.events").or_else(|| count("/sys/fs/cgroup", "memory.events"));
        }
        if controllers.split(',').any(|controller| controller == "memory") {
            let folder = format!("/sys/fs/cgroup/memory{path}");
            return count(&folder, "memory.oom_control")
                .or_else(|| count("/sys/fs/cgroup/memory", "memory.oom_control"));
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_takes_for_itself_is_seen_from_inside_and_outside() {
        let before = own(None).expect("/proc is there");
        let taken = vec![1u8; 64 << 20];
        let inside = own(None).expect("/proc is there");
        let outside = own(Some(super::super::proc::pid())).expect("/proc is there");
        assert!(inside >= before + (48 << 20), "{before} -> {inside}");
        assert!(outside >= before + (48 << 20), "{before} -> {outside}");
        drop(taken);
    }

    #[test]
    fn kills_are_read_from_either_version_of_cgroups() {
        let events = "low 0\nhigh 0\nmax 31\noom 4\noom_kill 3\n".to_owned();
        let old = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n".to_owned();
        let read = |path: &str| match path {
            "/sys/fs/cgroup/a/b/memory.events" | "/sys/fs/cgroup/memory.events" => Some(events.clone()),
            "/sys/fs/cgroup/memory/c/memory.oom_control" => Some(old.clone()),
            _ => None,
        };
        assert_eq!(kills_in("0::/a/b\n", read), Some(3));
        assert_eq!(kills_in("0::/of/the/host\n", read), Some(3));
        assert_eq!(kills_in("9:name=systemd:/\n4:memory:/c\n0::/\n", read), Some(2));
        assert_eq!(kills_in("1:cpu:/\n", read), None);
    }
}
